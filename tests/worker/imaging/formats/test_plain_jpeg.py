"""Plain grey JPEG is read without Pillow: the same pixels, and nothing that Pillow refuses."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.worker.imaging.builders import image
from worker.imaging.formats.pictures import bare_jpeg
from worker.imaging.formats.plain_jpeg import read_plain_jpeg
from worker.imaging.rejections import SliceRejected

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


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([5, 75, 90, 100]), st.integers(0, 1 << 30))
def test_pixels_are_those_of_pillow(width: int, height: int, quality: int, seed: int) -> None:
    bare = bare_jpeg(image("JPEG", grey(width, height, seed), quality=quality), 1 << 20)
    plain = read_plain_jpeg(bare)
    assert plain is not None
    assert (plain.mode, plain.size, plain.tobytes()) == ("L", (width, height), by_pillow(bare))


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
    except SliceRejected:
        return
    plain = read_plain_jpeg(bare)
    assert plain is None or plain.tobytes() == by_pillow(bare)


@pytest.mark.parametrize(
    "data",
    [
        image("JPEG", grey(40, 30, 1).convert("RGB")),
        image("JPEG", grey(40, 30, 1), progressive=True),
        image("JPEG", grey(40, 30, 1), restart_marker_blocks=2),
        image("JPEG", grey(40, 30, 1)) + b"more",
    ],
    ids=["colour", "progressive", "restart markers", "more bytes"],
)
def test_other_kinds_are_left_to_pillow(data: bytes) -> None:
    assert read_plain_jpeg(bare_jpeg(data, 1 << 20)) is None
