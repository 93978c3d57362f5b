"""Plain PNG is read by another library than Pillow: the same pixels, and no picture with missing rows."""

import io
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.worker.imaging.builders import png, png_chunk
from worker.imaging.formats.pictures import bare_png
from worker.imaging.formats.plain_png import read_plain_png

HEADER, DATA = 33, 41  # bytes before the first chunk of pixels, and before what it holds


def pixels(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """A picture with steps and noise, so that Pillow writes its rows by different filters."""
    shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
    steps = np.random.default_rng(seed).integers(0, 9, shape)
    return Image.fromarray((steps.cumsum(0) + steps.cumsum(1)).astype(np.uint8))


def read(data: bytes) -> Image.Image | None:
    return read_plain_png(bare_png(data, 1 << 20))


def with_rows(data: bytes, rows: bytes) -> bytes:
    """The PNG with other compressed pixels in its one chunk of them."""
    return data[:HEADER] + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


@given(st.sampled_from(["L", "RGB", "RGBA"]), st.integers(1, 70), st.integers(1, 70), st.integers(0, 1 << 30))
def test_pixels_are_those_of_pillow(mode: str, width: int, height: int, seed: int) -> None:
    data = png(pixels(mode, width, height, seed))
    plain = read(data)
    with Image.open(io.BytesIO(data)) as expected:
        assert plain is not None
        assert (plain.mode, plain.size, plain.tobytes()) == (expected.mode, expected.size, expected.tobytes())


@given(st.data())
def test_a_picture_without_all_its_rows_is_never_read(data: st.DataObject) -> None:
    whole = png(pixels("L", 60, 50, data.draw(st.integers(0, 1 << 30))))
    packed = whole[DATA : DATA + int.from_bytes(whole[HEADER : HEADER + 4], "big")]
    rows = zlib.decompress(packed)
    assert read(with_rows(whole, zlib.compress(rows[: data.draw(st.integers(0, len(rows) - 1))]))) is None
    cut = read(with_rows(whole, packed[: data.draw(st.integers(0, len(packed) - 1))]))
    assert cut is None or cut.tobytes() == Image.open(io.BytesIO(whole)).tobytes()  # only the checksum was cut


@pytest.mark.parametrize("mode", ["LA", "P", "1", "I;16"])
def test_other_modes_are_left_to_pillow(mode: str) -> None:
    assert read(png(pixels("L", 9, 9, 0).convert(mode))) is None


def test_a_large_picture_is_left_to_pillow_which_reports_that_memory_ran_out() -> None:
    assert read_plain_png(bare_png(png(Image.new("L", (2001, 2000))), 1 << 30)) is None
