"""Whatever the bytes, what comes out is slices, or one of the two refusals."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.models.slices import folder_of, slashed
from db.reasons import REASONS
from tests.builders.files import tar_of, zip_of
from tests.worker.imaging.builders import RawEntry, dicom, image, png, raw_zip
from worker.imaging.archives.archive import Limits, inspect_archive, read_entries
from worker.imaging.display_names import MAX_NAME, display_name
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.rejections import ArchiveRefused, SliceRejected

DECODE = DecodeLimits(max_pixels=200_000, max_pages=8)
ARCHIVE = Limits(max_entries=50, max_unpacked_bytes=3_000_000, max_ratio=200, max_entry_bytes=1_000_000)
quick = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])

PICTURES = [
    png(),
    image("JPEG"),
    image("TIFF", compression="tiff_lzw"),
    image("TIFF"),
    image("BMP"),
    dicom(),
    dicom(implicit=True),
]
FILES = {"a.png": png(), "b/c.png": png()[:500], "d": b"x" * 5000}
ARCHIVES = [
    zip_of(FILES),
    raw_zip([RawEntry(b"a", png()), RawEntry(b"b", png(), method=8)]),
    tar_of(FILES),
    tar_of({"n" * 150: png()}),
    tar_of(FILES, "w:gz"),
    tar_of(FILES, "w:bz2"),
    tar_of(FILES, "w:xz"),
]


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """One of the originals with a few bytes changed, and perhaps cut, lengthened, or with a piece moved."""
    data = bytearray(draw(st.sampled_from(originals)))
    places = st.one_of(st.integers(0, min(600, len(data) - 1)), st.integers(0, len(data) - 1))
    values = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))
    for at, value in draw(st.lists(st.tuples(places, values), max_size=6)):
        data[at] = value
    change = draw(st.sampled_from(["none", "none", "cut", "append", "insert", "delete"]))
    at = draw(places)
    if change == "cut":
        del data[at:]
    elif change == "append":
        data += draw(st.binary(max_size=50))
    elif change == "insert":
        data[at:at] = draw(st.binary(min_size=1, max_size=50))
    elif change == "delete":
        del data[at : at + draw(st.integers(1, 50))]
    return bytes(data)


def check_decoding(data: bytes) -> None:
    try:
        slices = decode(data, DECODE)
    except SliceRejected as rejection:
        code, detail = rejection.code, rejection.detail
        assert code in REASONS
        assert detail.isprintable()
        return
    assert 1 <= len(slices) <= DECODE.max_pages
    for number, slice_ in enumerate(slices):
        assert slice_.pixels.shape == (224, 224)
        assert slice_.pixels.dtype == np.uint8
        assert slice_.frame == number


def check_reading(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        try:
            inspection = inspect_archive(path, "upload", ARCHIVE)
            entries = [(entry, entry.read()) for entry in read_entries(path, "upload", ARCHIVE)]
        except ArchiveRefused as refusal:
            code = refusal.code
            assert code in REASONS
            return
    assert [entry.ordinal for entry, _ in entries] == list(range(inspection.entries))
    for entry, content in entries:
        assert entry.name.isprintable()
        if isinstance(content, SliceRejected):
            assert content.code in REASONS
        else:
            assert len(content) == entry.size <= ARCHIVE.max_entry_bytes


@quick
@given(st.one_of(st.binary(max_size=3000), st.sampled_from(PICTURES).flatmap(lambda p: st.just(p[:8]))))
@pytest.mark.filterwarnings("ignore")
def test_random_bytes_are_decoded_or_rejected(data: bytes) -> None:
    check_decoding(data)


@quick
@given(
    st.binary(max_size=400), st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"BM", b"\x08\x00"])
)
@pytest.mark.filterwarnings("ignore")
def test_random_bytes_behind_a_signature_are_decoded_or_rejected(data: bytes, signature: bytes) -> None:
    check_decoding(signature + data)
    check_decoding(bytes(128) + b"DICM" + data)


@quick
@given(mutated(PICTURES))
@pytest.mark.filterwarnings("ignore")
def test_mutated_pictures_are_decoded_or_rejected(data: bytes) -> None:
    check_decoding(data)


@quick
@given(st.binary(max_size=3000))
def test_random_bytes_are_read_or_refused(data: bytes) -> None:
    check_reading(data)


@pytest.mark.slow
@quick
@given(mutated(ARCHIVES))
def test_mutated_archives_are_read_or_refused(data: bytes) -> None:
    check_reading(data)


@quick
@given(st.text(max_size=700))
def test_every_name_becomes_printable(name: str) -> None:
    shown = display_name(name)
    assert shown.isprintable()
    assert len(shown) <= MAX_NAME
    assert shown.encode().decode() == shown
    assert display_name(shown) == shown


PLAIN_NAMES = st.lists(
    st.one_of(
        st.text(
            st.characters(exclude_characters='<>:"/\\|?*'), min_size=1, max_size=12
        ),  # Windows has no such characters
        st.from_regex(r"[uUxnrt0]?\{?[0-9a-fA-F]{1,8}\}?\.png", fullmatch=True),
        st.characters(categories=["Cc", "Cf", "Cs", "Zs", "Co"]).map(lambda sign: f"u{ord(sign):04x}{sign}"),
    ),
    min_size=1,
    max_size=5,
)


@quick
@given(PLAIN_NAMES)
def test_backslashes_separate_folders_in_every_name_that_windows_allows(parts: list[str]) -> None:
    by_slash, by_backslash = (display_name(separator.join(parts)) for separator in "/\\")
    assert slashed(by_backslash) == by_slash
    assert folder_of(by_backslash) == folder_of(by_slash) == "/".join(map(display_name, parts[:-1]))
