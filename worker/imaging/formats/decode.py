"""Decodes the bytes of a file to prepared slices. The bytes decide the format."""

from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from db.reasons import SET_APART
from worker.imaging.file_types import IMAGE_HEAD, image_kind
from worker.imaging.formats.dicom import decode_dicom
from worker.imaging.formats.memory_file import MemoryFile
from worker.imaging.formats.nifti import decode_nifti
from worker.imaging.formats.pictures import bare_jpeg, bare_png, check_bmp, check_pixels, check_png_rows, check_tiff
from worker.imaging.formats.plain_jpeg import read_plain_jpeg
from worker.imaging.formats.plain_png import read_plain_png
from worker.imaging.formats.sixteen_bits import MODES as SIXTEEN_BITS
from worker.imaging.formats.sixteen_bits import SixteenBits
from worker.imaging.recipe import PreparedSlice, fit
from worker.imaging.rejections import SliceRejected, unreadable

# Imported so that they register with Pillow. For a format that is not registered, Pillow would load all its plugins.
_PLUGINS = (BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin)

_PLAIN = {"PNG": read_plain_png, "JPEG": read_plain_jpeg}  # quicker than Pillow, for the most frequent kinds of files
_LUMINANCE = ("LA", "RGB", "RGBA", "RGBX", "P", "PA", "1")
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_DATA_TAGS = ((273, 279), (324, 325))  # strips and tiles: offsets, byte counts
_UNSIGNED = 1
_DEEP = 16  # bits of a sample
MIB = 1024 * 1024
_BYTES_A_LIMIT = 40 * MIB
_MOST_LIMITS = 9  # with a larger factor, a file could outlast `stall_seconds`, after which a worker kills itself
_DEPTH, _INTERLACED = 24, 28  # bytes of a PNG: the bits of a sample, and whether it is interlaced


@dataclass(frozen=True)
class DecodeLimits:
    """The limits for one file. `max_pixels` and `max_pages` hold everywhere. The others hold only in the sandbox.

    `cpu_seconds`: processor time. `wall_seconds`: time on the clock. Both are longer for a large file (`stretch`).
    `memory_bytes`: of the whole decoding process, without the file's own bytes. `max_file_bytes`: the largest file for
    which there is memory. `set_apart`: the rules of `dicom_objects` that apply.
    """

    max_pixels: int = 40_000_000
    max_pages: int = 2048
    cpu_seconds: int = 10
    wall_seconds: float = 30
    memory_bytes: int = 512 * MIB
    max_file_bytes: int = 640 * MIB
    set_apart: tuple[str, ...] = tuple(SET_APART)

    def stretch(self, size: int) -> float:
        """Return the factor by which the seconds are multiplied for a file of `size` bytes.

        A scan of 1,000 slices in JPEG 2000 has 200 MiB and takes 20 s of processor time.
        """
        return min(1 + size / _BYTES_A_LIMIT, _MOST_LIMITS)


def decode(data: bytes | bytearray | memoryview, limits: DecodeLimits) -> list[PreparedSlice]:
    """Decode one file. Return one slice, or one for each page of a TIFF, frame of DICOM, or axial plane of a volume.

    | stored as | becomes |
    |---|---|
    | L (8-bit grey; 2 and 4 bits widened) | itself |
    | LA, RGBA, PA, RGBX | alpha dropped, not blended with a background; then as L, RGB, P |
    | RGB | luminance, ITU-R 601-2: (19595 R + 38470 G + 7471 B + 32768) >> 16 |
    | P | its palette's colours, then as RGB |
    | 1 | 0 and 255 |
    | I;16 (unsigned 16-bit grey, PNG or TIFF), from 0 to 8,191 with air and tissue | HU + 1024: lung window |
    | I;16, from 31,744 to 39,935 with air and tissue | HU + 32768: lung window |
    | I;16, all below 8,192 or from 57,344 on, as negative numbers stored as unsigned | `unsupported` |
    | I;16, the brightest 40,960 or more | the full range: round(v / 257) |
    | I;16, all 0 | black |
    | I;16, other | `unsupported` |
    | LA, RGB, RGBA of 16 bits, the brightest 40,960 or more | the high byte of each, then as LA, RGB, RGBA |
    | LA, RGB, RGBA of 16 bits, other | `unsupported` |
    | DICOM CT, each frame | lung window: see `dicom.decode_dicom` |
    | NIfTI, each axial slice | lung window: see `nifti.decode_nifti` |
    | CMYK, YCbCr and Lab TIFF, signed, 32-bit, floating point, 12-bit, premultiplied grey, RLE BMP | `unsupported` |

    A file has air if its lowest HU is -500 or less, and tissue if its highest HU is -200 or more. The 16-bit values of
    all pages of a TIFF count together. Of an APNG, only the default picture is read. Metadata is removed without
    reading it: text, profiles and EXIF, also the EXIF orientation. So no remark in a file can change a score. TIFF's
    Orientation, a baseline tag, is applied. A truncated picture is never padded.

    Raises SliceRejected with a code of `db.reasons.OF_FILES`.
    """
    kind = image_kind(memoryview(data)[:IMAGE_HEAD])
    if kind is None:
        if data and not np.frombuffer(data, np.uint8).any():
            raise SliceRejected("corrupt", "The file holds nothing but zeros.")
        raise SliceRejected("format", "The bytes are not those of a PNG, JPEG, TIFF, BMP, DICOM or NIfTI file.")
    try:
        if kind == "DICOM":
            return list(decode_dicom(data, limits.max_pixels, limits.max_pages, limits.set_apart))
        if kind == "NIfTI":
            return list(decode_nifti(data, limits.max_pixels, limits.max_pages, limits.set_apart))
        return _decode_picture(data, kind, limits)
    except SliceRejected:
        raise
    except Exception as error:
        # If a decoder fails with any error, the bytes are to blame.
        raise _rejection(error, kind) from error


def _decode_picture(data: bytes | bytearray | memoryview, kind: str, limits: DecodeLimits) -> list[PreparedSlice]:
    checked = _checked(data, kind, limits.max_pixels)
    if kind in _PLAIN and isinstance(checked, bytes) and (plain := _PLAIN[kind](checked)):
        return [_prepare(plain, kind, 0, limits, SixteenBits())]
    with Image.open(cast("BinaryIO", MemoryFile(checked)), formats=(kind,)) as image:
        deep = SixteenBits()
        if kind == "TIFF":
            return _decode_pages(image, len(data), limits, deep)
        png = checked if isinstance(checked, bytes) and kind == "PNG" else b""
        slice_ = _prepare(image, kind, 0, limits, deep, is_deep=bool(png) and png[_DEPTH] == _DEEP)
        deep.check()
        if png and (png[_INTERLACED] or not _reaches_last_row(image)):
            check_png_rows(png)
        return [slice_]


def _decode_pages(image: Image.Image, size: int, limits: DecodeLimits, deep: SixteenBits) -> list[PreparedSlice]:
    slices: list[PreparedSlice] = []
    for page in range(limits.max_pages + 1):
        try:
            image.seek(page)
        except EOFError:
            break
        if page == limits.max_pages:
            raise SliceRejected("pages", f"More than the {limits.max_pages} pages accepted.")
        bits = _checked_bits(image, size)
        slices.append(_prepare(image, "TIFF", page, limits, deep, is_deep=_DEEP in bits))
    deep.check()
    for page, slice_ in enumerate(slices):  # later pages may show what the values of earlier pages mean
        if slice_.mode.startswith(SIXTEEN_BITS) and slice_.notes != deep.notes:
            image.seek(page)
            slices[page] = _prepare(image, "TIFF", page, limits, deep, is_deep=True)
    return slices


def _reaches_last_row(image: Image.Image) -> bool:
    """Return whether the last row has a value above 0. Then no row is missing. Real slices pass this check."""
    return any(image.crop((0, image.height - 1, image.width, image.height)).tobytes())


def _checked(data: bytes | bytearray | memoryview, kind: str, max_pixels: int) -> bytes | bytearray | memoryview:
    view = memoryview(data)
    if kind == "PNG":
        return bare_png(view, max_pixels)
    if kind == "JPEG":
        return bare_jpeg(view, max_pixels)
    if kind == "TIFF":
        check_tiff(view)
    else:
        check_bmp(view, max_pixels)
    return data


def _prepare(
    image: Image.Image, kind: str, frame: int, limits: DecodeLimits, deep: SixteenBits, *, is_deep: bool = False
) -> PreparedSlice:
    """Return a slice. `is_deep`: the file has 16 bits a sample, even if Pillow's mode has only 8."""
    check_pixels(image.width, image.height, limits.max_pixels)
    grey, mode, notes = _luminance(image, deep, is_deep=is_deep)
    return PreparedSlice(fit(grey), frame, kind, mode, grey.width, grey.height, notes=notes)


def _luminance(image: Image.Image, deep: SixteenBits, *, is_deep: bool) -> tuple[Image.Image, str, tuple[str, ...]]:
    """Return the picture in mode L by the table of `decode`, its earlier mode, and a note if values were read as HU."""
    image.load()
    if image.mode == "L":
        return image, "L", ()
    if image.mode in _LUMINANCE:
        image.info.clear()  # otherwise Pillow would look for a transparent colour
        if is_deep:
            deep.add_colours(image)
        return image.convert("L"), image.mode, ()
    if image.mode in SIXTEEN_BITS:
        return *deep.to_grey(image), deep.notes
    raise SliceRejected("unsupported", f"Pictures of mode {image.mode} are not read.")


def _checked_bits(image: Image.Image, size: int) -> set[int]:
    """Return the bits that the samples of a TIFF page have.

    Refuse a page whose data is beyond the end of the file, or whose samples Pillow would misread.
    """
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    for offsets, counts in _DATA_TAGS:
        if any(at + count > size for at, count in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)):
            raise SliceRejected("truncated", "The TIFF ends before its pixels.")
    bits, signs = set(tags.get(_BITS, (1,))), set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)))
    if signs != {_UNSIGNED} or bits & {12, 32} or (bits == {16} and tags.get(_PHOTOMETRIC) == 0):
        raise SliceRejected("unsupported", "TIFF with signed, floating, 12- or 32-bit or inverted 16-bit samples.")
    return bits


def _rejection(error: Exception, kind: str) -> SliceRejected:
    """Return the rejection of the file for an exception of Pillow, NumPy or pydicom."""
    text = str(error)
    if isinstance(error, MemoryError):
        return SliceRejected("decoder_memory", "Decoding takes more memory than is allowed.")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return SliceRejected("pixels", "The picture has more pixels than are accepted.")
    if kind in ("DICOM", "NIfTI"):
        return unreadable(kind, error)
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return SliceRejected("truncated", f"The {kind} ends before its pixels.")
    if text.startswith("Unsupported") or (kind == "TIFF" and isinstance(error, UnidentifiedImageError)):
        return SliceRejected("unsupported", f"This variant of {kind} is not read.")
    return SliceRejected("corrupt", f"The {kind} cannot be decoded ({type(error).__name__}).")
