"""Bad inputs 18 to 23: what is wrong with a picture; the rows for DICOM are in test_decode_dicom.py."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from db.reasons import REASONS
from tests.worker.imaging.builders import grey, image, png, png_chunk
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.recipe import PreparedSlice, fit, lung_window
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

LIMITS = DecodeLimits()
Verdict = Callable[[bytes], Any]
ADAM7_OF_40_BY_30 = [(5, 4), (5, 4), (10, 4), (10, 8), (20, 7), (20, 15), (40, 15)]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, LIMITS) as pool:
        yield pool


@pytest.fixture
def verdict(pool: DecoderPool) -> Verdict:
    """A file's code, or its slices: the same in this process and in the sandbox."""

    def ask(data: bytes) -> Any:
        ((_, confined),) = pool.map([(0, data)])
        here = in_process(data)
        assert described(confined) == described(here)
        return here.code if isinstance(here, SliceRejected) else here

    return ask


def in_process(data: bytes) -> list[PreparedSlice] | SliceRejected:
    try:
        return decode(data, LIMITS)
    except SliceRejected as rejection:
        return rejection


def described(result: list[PreparedSlice] | SliceRejected) -> list[object]:
    if isinstance(result, SliceRejected):
        assert result.code in REASONS
        return [result.code, result.detail]
    return [(s.sha256_pixels, s.format, s.mode, s.width, s.height, s.frame, s.series) for s in result]


def test_row_18_a_picture_of_144_megapixels_is_pixels(verdict: Verdict) -> None:
    header = struct.pack(">2I5B", 12_000, 12_000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(12_000 * 1501), 1)
    big = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    assert verdict(big) == "pixels"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_row_18_our_own_cap_holds_for_every_format(kind: str) -> None:
    picture = image(kind)
    assert len(decode(picture, DecodeLimits(max_pixels=1200))) == 1
    with pytest.raises(SliceRejected) as rejected:
        decode(picture, DecodeLimits(max_pixels=1199))
    assert rejected.value.code == "pixels"


@pytest.mark.parametrize(
    "whole",
    [
        png(),
        image("JPEG", quality=90),
        image("JPEG", progressive=True),
        image("JPEG", Image.new("RGB", (40, 30), "red")),
    ],
    ids=["png", "jpeg", "progressive", "colour"],
)
def test_row_19_a_png_or_jpeg_cut_anywhere_is_truncated(whole: bytes) -> None:
    for length in [*range(12, len(whole) - 1, 23), len(whole) - 1]:
        with pytest.raises(SliceRejected) as rejected:
            decode(whole[:length], LIMITS)
        assert rejected.value.code == "truncated", length


@pytest.mark.parametrize("interlaced", [0, 1])
def test_row_19_a_png_without_all_its_rows_is_truncated(verdict: Verdict, interlaced: int) -> None:
    """The compressed stream ends properly, and Pillow would leave the last row black."""
    size = sum(rows * (columns + 1) for columns, rows in ADAM7_OF_40_BY_30) if interlaced else 41 * 30
    header = png_chunk(b"IHDR", struct.pack(">2I5B", 40, 30, 8, 0, 0, 0, interlaced))
    for missing, outcome in ((0, "whole"), (1, "truncated"), (60, "truncated")):
        rows = png_chunk(b"IDAT", zlib.compress(bytes(size - missing)))
        answer = verdict(b"\x89PNG\r\n\x1a\n" + header + rows + png_chunk(b"IEND", b""))
        assert (answer if isinstance(answer, str) else "whole") == outcome


@pytest.mark.parametrize(
    "whole",
    [
        image("TIFF"),
        image("TIFF", compression="tiff_lzw"),
        image("BMP"),
        image("TIFF", compression="tiff_adobe_deflate"),
    ],
)
def test_row_19_a_tiff_or_bmp_cut_off_is_rejected(whole: bytes) -> None:
    for length in range(20, len(whole), 41):
        with pytest.raises(SliceRejected) as rejected:
            decode(whole[:length], LIMITS)
        assert rejected.value.code in ("truncated", "corrupt"), length


def test_row_19_a_png_with_a_flipped_bit_is_corrupt(verdict: Verdict) -> None:
    damaged = bytearray(png())
    damaged[len(damaged) // 2] ^= 16
    assert verdict(bytes(damaged)) == "corrupt"


@pytest.mark.parametrize(
    "data",
    [
        b"SIMPLE  =                    T".ljust(2880),
        b"8BPS\x00\x01" + bytes(200),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        image("GIF"),
        image("WEBP"),
        b"RIFF",
        b"x",
    ],
    ids=["FITS", "PSD", "EPS", "SVG", "GIF", "WEBP", "start", "x"],
)
def test_row_20_other_formats_whatever_their_name_are_format(verdict: Verdict, data: bytes) -> None:
    assert verdict(data) == "format"


@pytest.mark.parametrize("size", [1, 300, 30_000])
def test_row_20_a_file_of_zeros_is_corrupt(verdict: Verdict, size: int) -> None:
    assert verdict(bytes(size)) == "corrupt"


def test_row_22_of_an_apng_the_default_picture_counts(verdict: Verdict) -> None:
    first = Image.fromarray(grey())
    animated = image("PNG", first, save_all=True, append_images=[Image.new("L", first.size, 9)], duration=10)
    assert b"acTL" in animated
    (slice_,) = verdict(animated)
    assert (slice_.pixels == fit(first)).all()


def test_row_22_each_page_of_a_tiff_is_a_slice(verdict: Verdict) -> None:
    pages = [Image.fromarray(grey()), Image.new("RGB", (9, 70), (255, 0, 0)), Image.new("L", (224, 224), 7)]
    slices = verdict(image("TIFF", pages[0], save_all=True, append_images=pages[1:], compression="tiff_lzw"))
    assert [(s.frame, s.mode, s.width, s.height) for s in slices] == [
        (0, "L", 40, 30),
        (1, "RGB", 9, 70),
        (2, "L", 224, 224),
    ]
    assert (slices[0].pixels == fit(pages[0])).all()
    assert (slices[1].pixels == 76).all()
    assert (slices[2].pixels == 7).all()


def test_row_22_more_pages_than_the_cap_are_rejected() -> None:
    pages = [Image.new("L", (8, 8), value) for value in range(4)]
    stack = image("TIFF", pages[0], save_all=True, append_images=pages[1:])
    assert len(decode(stack, DecodeLimits(max_pages=4))) == 4
    with pytest.raises(SliceRejected) as rejected:
        decode(stack, DecodeLimits(max_pages=3))
    assert rejected.value.code == "pages"


def test_row_22_a_tiff_whose_pages_go_round_in_a_circle_ends(verdict: Verdict) -> None:
    looped = bytearray(image("TIFF"))
    first = int.from_bytes(looped[4:8], "little")
    entries = int.from_bytes(looped[first : first + 2], "little")
    looped[first + 2 + 12 * entries :][:4] = b""
    at = first + 2 + 12 * entries
    looped[at : at + 4] = first.to_bytes(4, "little")
    assert isinstance(verdict(bytes(looped)), list)


def test_row_22_huge_metadata_does_no_harm_and_changes_nothing(verdict: Verdict) -> None:
    plain = png()
    text = zlib.compress(b"t" * 80_000_000, 9)
    extra = b"".join(
        [
            png_chunk(b"zTXt", b"Comment\x00\x00" + text),
            png_chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + text),
            png_chunk(b"iCCP", b"profile\x00\x00" + text),
            png_chunk(b"eXIf", b"MM\x00*" + b"\xff" * 5000),
            png_chunk(b"tRNS", b"\x00\x40"),
            png_chunk(b"gAMA", struct.pack(">I", 1)),
            png_chunk(b"tEXt", b"Bad CRC\x00" * 100)[:-1] + b"?",
        ]
    )
    (heavy,) = verdict(plain[:33] + extra + plain[33:])
    assert heavy.sha256_pixels == decode(plain, LIMITS)[0].sha256_pixels


def test_row_22_jpeg_metadata_is_dropped_and_its_orientation_is_not_applied(verdict: Verdict) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, tagged = image("JPEG"), image("JPEG", exif=exif, icc_profile=b"p" * 200_000, comment=b"c" * 60_000)
    assert len(tagged) > len(plain) + 260_000
    assert verdict(tagged)[0].sha256_pixels == verdict(plain)[0].sha256_pixels


def test_row_22_tiff_orientation_is_applied(verdict: Verdict) -> None:
    (turned,) = verdict(image("TIFF", tiffinfo={274: 6}))
    assert (turned.width, turned.height) == (30, 40)
    assert (turned.pixels == fit(Image.fromarray(grey()).transpose(Image.Transpose.ROTATE_270))).all()


def luminance(red: int, green: int, blue: int) -> int:
    return (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16


RGB = (200, 30, 90)


@pytest.mark.parametrize(
    ("picture", "kind", "mode", "expected"),
    [
        (Image.new("L", (8, 8), 77), "PNG", "L", 77),
        (Image.new("RGB", (8, 8), RGB), "PNG", "RGB", luminance(*RGB)),
        (Image.new("RGB", (8, 8), RGB), "BMP", "RGB", luminance(*RGB)),
        (Image.new("RGB", (8, 8), RGB), "TIFF", "RGB", luminance(*RGB)),
        (Image.new("RGBA", (8, 8), (*RGB, 0)), "PNG", "RGBA", luminance(*RGB)),
        (Image.new("RGBA", (8, 8), (*RGB, 10)), "TIFF", "RGBA", luminance(*RGB)),
        (Image.new("LA", (8, 8), (77, 0)), "PNG", "LA", 77),
        (Image.new("P", (8, 8), 3), "PNG", "P", 0),
        (Image.new("1", (8, 8), 1), "PNG", "1", 255),
        (Image.new("1", (8, 8), 1), "TIFF", "1", 255),
        (Image.new("1", (8, 8), 0), "BMP", "1", 0),
        (Image.fromarray(np.full((8, 8), 50115, np.uint16)), "PNG", "I;16", 195),
        (Image.fromarray(np.zeros((8, 8), np.uint16)), "PNG", "I;16", 0),
        (Image.fromarray(np.full((8, 8), 40960, np.uint16)), "PNG", "I;16", 159),
    ],
)
def test_row_23_stated_conversions(verdict: Verdict, picture: Image.Image, kind: str, mode: str, expected: int) -> None:
    (slice_,) = verdict(image(kind, picture))
    assert (slice_.mode, slice_.format) == (mode, kind)
    assert (slice_.pixels == expected).all()


HU = np.linspace(-1000, 400, 224 * 224).reshape(224, 224).astype(np.int16)


@pytest.mark.parametrize("offset", [1024, 32768])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_row_23_hounsfield_units_go_through_the_lung_window(verdict: Verdict, kind: str, offset: int) -> None:
    (slice_,) = verdict(image(kind, Image.fromarray((HU.astype(np.int32) + offset).astype(np.uint16))))
    assert (slice_.mode, slice_.notes) == (f"I;16 HU+{offset}", (f"hu_{offset}",))
    assert (slice_.pixels == lung_window(HU)).all()


def test_row_23_big_endian_tiff_gives_the_slice_of_its_little_endian_twin(verdict: Verdict) -> None:
    """Pillow 13.0.0 resizes I;16B byte by byte, so the values become grey levels before the recipe resizes."""
    values = np.tile(HU.astype(np.int32) + 1024, (2, 2)).astype(np.uint16)
    big = Image.frombytes("I;16B", values.shape, values.astype(">u2").tobytes())
    (found,), (twin,) = verdict(image("TIFF", big)), verdict(image("TIFF", Image.fromarray(values)))
    assert (found.mode, twin.mode) == ("I;16B HU+1024", "I;16 HU+1024")
    assert (found.pixels == twin.pixels).all()


def sixteen_bits(*values: int) -> bytes:
    return image("PNG", Image.fromarray(np.array([values], np.uint16)))


def test_16_bit_values_are_hounsfield_units_in_their_ranges_only(verdict: Verdict) -> None:
    def mode(low: int, high: int) -> str:
        (slice_,) = verdict(sixteen_bits(low, high))
        return slice_.mode

    assert mode(0, 8191) == mode(524, 824) == "I;16 HU+1024"
    assert mode(31744, 39935) == mode(32268, 32568) == "I;16 HU+32768"
    assert mode(0, 40960) == mode(32768, 65535) == "I;16"
    for low, high in ((0, 8192), (31743, 39935), (31744, 39936), (20000, 30000)):
        assert verdict(sixteen_bits(low, high)) == "unsupported", (low, high)


@pytest.mark.parametrize(
    "values",
    [(0, 1), (0, 255), (0, 823), (525, 3000), (1048, 4000), (32269, 33000), (31744, 32567)],
    ids=["mask", "8-bit greys", "air alone", "no air", "HU + 2048", "no air, DeepLesion", "air alone, DeepLesion"],
)
def test_16_bit_values_without_air_or_without_tissue_are_not_hounsfield_units(
    verdict: Verdict, values: tuple[int, ...]
) -> None:
    assert verdict(sixteen_bits(*values)) == "unsupported"


@pytest.mark.parametrize(
    "numbers",
    [HU, np.where(HU < -900, -2000, HU) + 1024, HU[:20]],
    ids=["HU", "padding", "all negative"],
)
def test_negative_numbers_stored_as_unsigned_ones_are_unsupported(verdict: Verdict, numbers: Any) -> None:
    assert verdict(image("PNG", Image.fromarray(numbers.astype(np.uint16)))) == "unsupported"


CT = np.tile(HU[::7, ::7].astype(np.int32) + 1024, (2, 2)).astype(np.uint16)
FULL = np.linspace(0, 65535, CT.size).reshape(CT.shape).astype(np.uint16)
AIR, TISSUE = CT // 32, CT // 3 + 900
BLACK, WHITE = np.zeros_like(CT), np.full_like(CT, 65535)


@pytest.mark.parametrize(
    ("pages", "mode"),
    [
        ([CT, AIR], "I;16 HU+1024"),
        ([AIR, CT], "I;16 HU+1024"),
        ([CT, np.full_like(CT, 24)], "I;16 HU+1024"),
        ([TISSUE, TISSUE, CT], "I;16 HU+1024"),
        ([CT + 31744, AIR + 31744], "I;16 HU+32768"),
        ([BLACK, CT + 31744, WHITE], "I;16 HU+32768"),
        ([CT, WHITE], "I;16 HU+1024"),
        ([FULL, WHITE, BLACK, FULL // 3], "I;16"),
        ([CT, FULL], "I;16"),
    ],
    ids=["air", "air first", "constant", "tissue", "air, DeepLesion", "blank", "white", "full range", "dark first"],
)
def test_16_bit_values_mean_the_same_on_each_page(verdict: Verdict, pages: list[Any], mode: str) -> None:
    pictures = [Image.fromarray(page) for page in pages]
    slices = verdict(image("TIFF", pictures[0], save_all=True, append_images=pictures[1:]))
    assert [slice_.mode for slice_ in slices] == [mode] * len(pages)
    offset = int(mode.partition("+")[2] or 0)
    for page, slice_ in zip(pages, slices, strict=True):
        grey = lung_window(page.astype(np.int32) - offset) if offset else np.round(page / 257).astype(np.uint8)
        assert (slice_.pixels == fit(Image.fromarray(grey))).all()


@pytest.mark.parametrize(
    "pages",
    [[AIR, AIR], [AIR, WHITE], [HU.astype(np.uint16), CT], [TISSUE]],
    ids=["air", "air, white", "wrapped", "tissue"],
)
def test_16_bit_pages_that_are_not_hounsfield_units_on_any_page_are_unsupported(
    verdict: Verdict, pages: list[Any]
) -> None:
    pictures = [Image.fromarray(page) for page in pages]
    assert verdict(image("TIFF", pictures[0], save_all=True, append_images=pictures[1:])) == "unsupported"


def test_16_bit_picture_of_only_black_and_white_is_read(verdict: Verdict) -> None:
    (slice_,) = verdict(image("PNG", Image.fromarray(np.where(CT > 900, WHITE, BLACK))))
    assert (slice_.mode, slice_.pixels.min(), slice_.pixels.max()) == ("I;16", 0, 255)


def test_16_bit_picture_keeps_the_high_bits(verdict: Verdict) -> None:
    (slice_,) = verdict(sixteen_bits(*[0, 32768, 65535] * 20))
    assert (slice_.pixels.min(), slice_.pixels.max()) == (0, 255)


def deep(samples: Any, kind: str) -> bytes:
    """A PNG or TIFF of 16 bits a sample, from uint16[h, w, channels]: grey and alpha, RGB, or RGBA."""
    height, width, channels = samples.shape
    if kind == "PNG":
        header = struct.pack(">2I5B", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
        rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in samples)
        chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    return bytes(imagecodecs.tiff_encode(samples, photometric="rgb"))


@pytest.mark.parametrize(("kind", "channels"), [("PNG", 2), ("PNG", 3), ("PNG", 4), ("TIFF", 3), ("TIFF", 4)])
def test_row_23_hounsfield_units_in_colours_or_beside_alpha_are_unsupported(
    verdict: Verdict, kind: str, channels: int
) -> None:
    for stored in (HU + 1024, HU.astype(np.int32) + 32768, HU):
        samples = np.stack([stored.astype(np.uint16)] * channels, -1)
        if channels in (2, 4):
            samples[..., -1] = 65535
        assert verdict(deep(samples, kind)) == "unsupported"


def test_row_23_a_palette_is_looked_up(verdict: Verdict) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, *RGB])
    for data in (image("PNG", picture), image("BMP", picture), image("PNG", picture, transparency=1)):
        (slice_,) = verdict(data)
        assert (slice_.pixels == luminance(*RGB)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_row_23_16_bit_colour_keeps_the_high_byte(verdict: Verdict, kind: str) -> None:
    samples = np.full((8, 8, 3), [value << 8 | 0xFF for value in RGB], np.uint16)
    (slice_,) = verdict(deep(samples, kind))
    assert (slice_.mode, (slice_.pixels == luminance(*RGB)).all()) == ("RGB", True)


@pytest.mark.parametrize("other", [BLACK, WHITE, FULL // 2], ids=["black", "white", "dim"])
def test_row_23_16_bit_colours_are_of_the_full_range_if_one_page_is(verdict: Verdict, other: Any) -> None:
    pages = np.stack([np.stack([page] * 3, -1) for page in (other, FULL)])
    slices = verdict(bytes(imagecodecs.tiff_encode(pages, photometric="rgb")))
    assert [slice_.mode for slice_ in slices] == ["RGB", "RGB"]


def test_row_23_16_bit_colours_that_are_all_dark_are_unsupported(verdict: Verdict) -> None:
    pages = np.stack([np.stack([page] * 3, -1) for page in (BLACK, FULL // 2)])
    assert verdict(bytes(imagecodecs.tiff_encode(pages, photometric="rgb"))) == "unsupported"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_row_23_8_bit_values_in_16_bit_colours_are_not_read_as_black(verdict: Verdict, kind: str) -> None:
    samples = np.full((8, 8, 3), RGB, np.uint16)
    assert verdict(deep(samples, kind)) == "unsupported"


@pytest.mark.slow
def test_row_18_a_picture_of_40_megapixels_in_colours_of_16_bits_is_read(pool: DecoderPool) -> None:
    row = b"\x00" + bytes(index % 251 for index in range(6 * 6600))
    chunks = (b"IHDR", struct.pack(">2I5B", 6600, 6000, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(row * 6000, 1))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in (*chunks, (b"IEND", b"")))
    ((_, slices),) = pool.map([(0, data)])
    assert isinstance(slices, list)
    assert slices[0].mode == "RGB"


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        (Image.new("CMYK", (8, 8)), "JPEG"),
        (Image.new("CMYK", (8, 8)), "TIFF"),
        (Image.new("LAB", (8, 8)), "TIFF"),
        (Image.new("YCbCr", (8, 8)), "TIFF"),
        (Image.new("I", (8, 8)), "TIFF"),
        (Image.new("F", (8, 8)), "TIFF"),
        (Image.new("La", (8, 8)), "TIFF"),
    ],
)
def test_row_23_unusual_sample_formats_are_unsupported(verdict: Verdict, picture: Image.Image, kind: str) -> None:
    if picture.mode == "La":
        data = image("TIFF", Image.new("LA", (8, 8)))
        tag = data.index(struct.pack("<HHIH", 338, 3, 1, 2))
        data = data[: tag + 8] + b"\x01" + data[tag + 9 :]
    else:
        data = image(kind, picture)
    assert verdict(data) == "unsupported"


def test_row_23_signed_tiff_is_unsupported(verdict: Verdict) -> None:
    for picture in (Image.fromarray(grey()), Image.fromarray(grey().astype(np.uint16))):
        assert verdict(image("TIFF", picture, tiffinfo={339: 2})) == "unsupported"


def test_row_23_run_length_coded_bmp_is_unsupported(verdict: Verdict) -> None:
    coded = bytearray(image("BMP"))
    coded[30] = 1
    assert verdict(bytes(coded)) == "unsupported"


def test_pillow_is_never_asked_to_pad() -> None:
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_picture_is_fitted_bilinear_and_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (448, 224))
    (slice_,) = decode(png(Image.fromarray(stripes)), LIMITS)
    assert slice_.pixels.shape == (224, 224)
    assert set(np.unique(slice_.pixels[:, 1:-1])) <= {127, 128}
    assert not slice_.pixels.flags.writeable


def test_text_written_by_pillow_itself_does_not_reach_the_slice(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("PatientName", "Secret^Name")
    file = io.BytesIO()
    Image.fromarray(grey()).save(file, "PNG", pnginfo=info)
    (slice_,) = decode(file.getvalue(), LIMITS)
    assert slice_.sha256_pixels == decode(png(), LIMITS)[0].sha256_pixels
    assert slice_.series is None
