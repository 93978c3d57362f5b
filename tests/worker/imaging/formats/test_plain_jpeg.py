"""JPEG is read without Pillow: the same pixels, nothing that Pillow refuses, and no pixels that are invented."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.worker.imaging.builders import image
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.formats.pictures import bare_jpeg
from worker.imaging.formats.plain_jpeg import read_plain_jpeg
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

END = b"\xff\xd9"


def grey(width: int, height: int, seed: int) -> Image.Image:
    steps = np.random.default_rng(seed).integers(-9, 10, (height, width)).cumsum(1)
    return Image.fromarray(np.clip(128 + steps, 0, 255).astype(np.uint8))


def by_pillow(bare: bytes) -> bytes | None:
    with Image.open(io.BytesIO(bare), formats=("JPEG",)) as picture:
        try:
            return picture.tobytes()
        except OSError:
            return None


KINDS: dict[str, dict[str, Any]] = {
    "grey": {},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_blocks": 2},
    "colour": {"colour": True, "subsampling": 2},
    "colour, 4:4:4": {"colour": True, "subsampling": 0},
    "colour, progressive, restart markers": {"colour": True, "progressive": True, "restart_marker_blocks": 1},
}


def jpeg(kind: str, width: int = 40, height: int = 30, seed: int = 1, quality: int = 75) -> bytes:
    options = dict(KINDS[kind])
    picture = grey(width, height, seed)
    return image(
        "JPEG", picture.convert("RGB") if options.pop("colour", False) else picture, quality=quality, **options
    )


@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([5, 75, 90, 100]),
    st.integers(0, 1 << 30),
)
def test_pixels_are_those_of_pillow(kind: str, width: int, height: int, quality: int, seed: int) -> None:
    bare = bare_jpeg(jpeg(kind, width, height, seed, quality), 1 << 20)
    plain = read_plain_jpeg(bare)
    assert (plain.size, plain.tobytes()) == ((width, height), by_pillow(bare))


@pytest.mark.parametrize("kind", KINDS)
def test_picture_whose_scan_ends_too_early_is_truncated_in_spite_of_its_end_mark(kind: str) -> None:
    whole = jpeg(kind, 64, 48)
    start = whole.index(b"\xff\xda") + 20
    for end in [*range(start, len(whole) - 2, 97), len(whole) - 20, len(whole) - 5]:
        cut = whole[:end].rstrip(b"\xff") + END
        with pytest.raises(SliceRejected) as rejected:
            decode(cut, DecodeLimits())
        assert rejected.value.code in ("truncated", "corrupt"), end


def test_progressive_picture_without_its_last_scan_is_truncated() -> None:
    whole = jpeg("progressive", 64, 48)
    with pytest.raises(SliceRejected) as rejected:
        decode(whole[: whole.rindex(b"\xff\xda")] + END, DecodeLimits())
    assert rejected.value.code == "truncated"


@pytest.mark.parametrize("kind", KINDS)
def test_needless_bytes_before_the_end_mark_do_no_harm(kind: str) -> None:
    whole = jpeg(kind)
    (plain,), (longer,) = decode(whole, DecodeLimits()), decode(whole[:-2] + b"\x00\x01\x02" + END, DecodeLimits())
    assert (longer.pixels == plain.pixels).all()


@pytest.mark.parametrize("more", [b"\xff\xda", b"\xff\xda\x00", b"\xff\xd8\xff", bytes(99), END], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end_mark_do_no_harm(kind: str, more: bytes) -> None:
    (plain,), (longer,) = decode(jpeg(kind), DecodeLimits()), decode(jpeg(kind) + more, DecodeLimits())
    assert (longer.pixels == plain.pixels).all()


@pytest.mark.parametrize("between", [b"", END], ids=["no end mark", "end mark"])
@pytest.mark.parametrize("kind", KINDS)
def test_second_picture_does_not_complete_the_first(kind: str, between: bytes) -> None:
    whole = jpeg(kind, 64, 48)
    for other in KINDS:
        with pytest.raises(SliceRejected) as rejected:
            decode(whole[: len(whole) // 2].rstrip(b"\xff") + between + jpeg(other, 64, 48, seed=2), DecodeLimits())
        assert rejected.value.code in ("truncated", "corrupt"), other


@pytest.mark.parametrize("kind", KINDS)
def test_end_mark_inside_a_segment_is_passed_over(kind: str) -> None:
    whole = jpeg(kind)
    comment = b"\xff\xfe\x00\x06" + END + b"\xff\xda"
    (plain,), (longer,) = decode(whole, DecodeLimits()), decode(whole[:-2] + comment + END, DecodeLimits())
    assert (longer.pixels == plain.pixels).all()


@given(st.data())
def test_a_damaged_picture_is_read_as_pillow_reads_it_or_not_at_all(data: st.DataObject) -> None:
    whole = bytearray(image("JPEG", grey(40, 30, 1), quality=75))
    start = whole.index(b"\xff\xda")
    at = data.draw(st.integers(start, len(whole) - 3))
    removed = data.draw(st.integers(0, 40))
    whole[at : at + removed] = data.draw(st.binary(max_size=3))
    if not whole.endswith(END):
        whole += END
    try:
        bare = bare_jpeg(bytes(whole), 1 << 20)
        plain = read_plain_jpeg(bare)
    except (SliceRejected, OSError):
        return
    assert plain.tobytes() == by_pillow(bare)


def test_large_picture_is_read_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jpeg("grey", 2048, 2048)
    monkeypatch.setattr("PIL.Image.open", None)
    (slice_,) = decode(whole, DecodeLimits())
    assert (slice_.width, slice_.height) == (2048, 2048)


@pytest.mark.slow
@pytest.mark.parametrize("needless", [b"", b"\x00\x01"], ids=["plain", "warned of"])
@pytest.mark.parametrize("kind", ["colour", "progressive"])
def test_picture_of_almost_40_megapixels_fits_into_the_memory_of_a_decoder(kind: str, needless: bytes) -> None:
    picture = Image.radial_gradient("L").resize((6600, 6000)).convert("RGB")
    whole = image("JPEG", picture, progressive=kind == "progressive")
    with DecoderPool(1, DecodeLimits()) as pool:
        ((_, slices),) = pool.map([(0, whole[:-2] + needless + END)])
    assert [slice_.width for slice_ in slices] == [6600]


@pytest.mark.slow
def test_picture_for_which_there_is_no_memory_is_not_called_damaged() -> None:
    picture = Image.radial_gradient("L").resize((6600, 6000)).convert("RGB")
    whole = image("JPEG", picture, progressive=True, subsampling=0)
    with DecoderPool(1, DecodeLimits()) as pool:
        ((_, rejected),) = pool.map([(0, whole)])
    assert isinstance(rejected, SliceRejected)
    assert rejected.code == "decoder_memory"
