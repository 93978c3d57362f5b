"""Prepares PNG, JPEG, TIFF and BMP for Pillow: checks their size and completeness, and removes metadata.

Pillow alone is not enough. Each function prevents a fault of Pillow:
* `check_pixels`: Pillow only warns above 89 megapixels, and our limit is lower.
* `bare_png`: Pillow inflates text chunks and profiles, reads a PNG without its end mark, and does not check CRCs of
  pixels.
* `check_png_rows`: if the compressed stream ends properly but lacks rows, Pillow leaves these rows black.
* `bare_jpeg`: Pillow reads a progressive picture without its last scans, parses EXIF and further pictures, and converts
  CMYK without the colour profile.
* `check_tiff`: if a file is cut off before its directory, Pillow reports an unknown format.
* `check_bmp`: Pillow silently pads run-length coded pixels.
"""

import re
import zlib
from typing import Literal

from worker.imaging.rejections import SliceRejected

_PNG_HEADER = 8
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PNG_CHANNELS = {2: 3, 4: 2, 6: 4}  # by colour type; other types have one channel
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE = 1024 * 1024
_JPEG_KEPT_APPS = (0xE0, 0xEE)  # JFIF and Adobe, which say how colours are coded
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, Huffman coded
_PROGRESSIVE, _JPEG_SCAN, _JPEG_END, _JPEG_START = 0xC2, 0xDA, 0xD9, 0xD8
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not a stuffed byte, a fill byte or a restart marker
_JPEG_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise SliceRejected: `pixels` for more pixels than the limit, `corrupt` for a picture without pixels."""
    if width * height > max_pixels:
        raise SliceRejected("pixels", f"{width} × {height} pixels; {max_pixels} are accepted.")
    if width <= 0 or height <= 0:
        raise SliceRejected("corrupt", "The picture states no size.")


def bare_png(data: bytes | memoryview, max_pixels: int) -> bytes:
    """Return the PNG with only IHDR, PLTE, IDAT and IEND: no text, profile, EXIF, transparency or further APNG frames.

    Raises SliceRejected: `truncated` without the end mark, `corrupt` if a CRC is wrong, `pixels`.
    """
    view = memoryview(data)
    kept: list[bytes | memoryview] = [b"\x89PNG\r\n\x1a\n"]
    at = _PNG_HEADER
    kind = b""
    while kind != b"IEND":
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end > len(view):
            raise SliceRejected("truncated", "The PNG ends before its end mark.")
        if kind in _PNG_KEPT:
            if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise SliceRejected("corrupt", f"The CRC of a PNG chunk ({kind.decode()}) fails.")
            kept.append(view[at:end])
        if at == _PNG_HEADER:
            if kind != b"IHDR" or end - at != 25:
                raise SliceRejected("corrupt", "The PNG does not begin with its header.")
            width, height = (int.from_bytes(view[side : side + 4], "big") for side in (16, 20))
            check_pixels(width, height, max_pixels)
        at = end
    return b"".join(kept)


def check_png_rows(bare: bytes) -> None:
    """Inflate the pixels of a `bare_png` and count them. Raises SliceRejected(`truncated`) if rows are missing."""
    width, height = int.from_bytes(bare[16:20], "big"), int.from_bytes(bare[20:24], "big")
    bits = bare[24] * _PNG_CHANNELS.get(bare[25], 1)
    passes = _ADAM7 if bare[28] else ((0, 0, 1, 1),)
    left = 0
    for first_column, first_row, across, down in passes:
        columns, rows = -((first_column - width) // across), -((first_row - height) // down)
        left += rows * (1 + (columns * bits + 7) // 8) if columns > 0 and rows > 0 else 0
    inflater = zlib.decompressobj()
    at = 33
    while left > 0 and (length := int.from_bytes(bare[at : at + 4], "big")):
        packed = bare[at + 8 : at + 8 + length] if bare[at + 4 : at + 8] == b"IDAT" else b""
        while packed and left > 0:
            left -= len(inflater.decompress(packed, _INFLATE))
            packed = inflater.unconsumed_tail
        at += 12 + length
    if left > 0:
        raise SliceRejected("truncated", "The PNG has fewer rows than it states.")


def bare_jpeg(data: bytes | memoryview, max_pixels: int) -> bytes:
    """Return the JPEG without EXIF, profiles, comments and further pictures (APP1 to APP13, APP15, COM).

    Raises SliceRejected: `truncated` without the end mark or a scan, `unsupported` for CMYK, 12 bits, lossless and
    arithmetic coding, `corrupt`, `pixels`.
    """
    view = memoryview(data)
    kept: list[bytes | memoryview] = [b"\xff\xd8"]
    at = 2
    frame = b""
    while True:
        while at + 1 < len(view) and view[at] == view[at + 1] == 0xFF:
            at += 1
        if at + 4 > len(view):
            raise SliceRejected("truncated", "The JPEG ends within its headers.")
        marker, end = view[at + 1], at + 2 + int.from_bytes(view[at + 2 : at + 4], "big")
        if view[at] != 0xFF or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or end < at + 4:
            raise SliceRejected("corrupt", "The JPEG's headers are damaged.")
        if end > len(view):
            raise SliceRejected("truncated", "The JPEG ends within its headers.")
        if marker == _JPEG_SCAN:
            break
        if marker in _JPEG_FRAMES or marker in _JPEG_OTHER_FRAMES:
            frame = bytes(view[at + 1 : end])
            _check_frame(marker, frame[3:], max_pixels)
        if marker in _JPEG_KEPT_APPS or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(view[at:end])
        at = end
    if not frame:
        raise SliceRejected("corrupt", "The JPEG's pixels come before its size.")
    rest = bytes(view[at:])
    scans, end = jpeg_scans(rest)
    if _uncoded(frame, scans):
        raise SliceRejected("truncated", "The JPEG ends before its last scan.")
    return b"".join([*kept, memoryview(rest)[:end]])


def jpeg_scans(rest: bytes) -> tuple[list[bytes], int]:
    """Return the headers of the scans of a JPEG, and the end of its end mark. `rest`: its bytes from the first scan on.

    Raises SliceRejected: `truncated` if another picture or nothing comes before the end mark, `corrupt`.
    """
    at, scans = 0, []
    while (marker := rest[at + 1]) != _JPEG_END:
        if marker < 0xC0:
            raise SliceRejected("corrupt", "The JPEG's scans are damaged.")
        end = at + 2 + int.from_bytes(rest[at + 2 : at + 4], "big")
        if marker == _JPEG_SCAN:
            scans.append(rest[at:end])
        following = _JPEG_MARKER.search(rest, end)
        if marker == _JPEG_START or not following:
            raise SliceRejected("truncated", "The JPEG ends before its end mark.")
        at = following.start()
    return scans, at + 2


def _uncoded(frame: bytes, scans: list[bytes]) -> bool:
    """Return whether a coefficient of a component lacks its last bit in all scans (ITU-T T.81 G.1.1.1)."""
    left = {component: set(range(64)) for component in frame[9::3]}
    for scan in scans:
        count = scan[4]
        first, last, bits = scan[5 + 2 * count : 8 + 2 * count] if frame[0] == _PROGRESSIVE else (0, 63, 0)
        for component in scan[5 : 5 + 2 * count : 2] if not bits & 15 else b"":
            left.get(component, set()).difference_update(range(first, last + 1))
    return any(left.values())


def check_tiff(data: bytes | memoryview) -> None:
    """Raise SliceRejected(`truncated`) if the file was cut off before its first directory."""
    wide = 43 in (data[2], data[3])  # BigTIFF
    order: Literal["little", "big"] = "little" if data[0] == 0x49 else "big"
    first = int.from_bytes(data[8:16] if wide else data[4:8], order)
    count, entry, following = (8, 20, 8) if wide else (2, 12, 4)
    entries = int.from_bytes(data[first : first + count], order)
    if len(data) < 16 or first + count + entries * entry + following > len(data):
        raise SliceRejected("truncated", "The TIFF ends before its directory.")


def check_bmp(data: bytes | memoryview, max_pixels: int) -> None:
    """Raise SliceRejected: `unsupported` for run-length coding, `pixels`, `truncated`."""
    if len(data) < 54:
        raise SliceRejected("truncated", "The BMP ends within its header.")
    if int.from_bytes(data[14:18], "little") < 40:  # OS/2 1.x: two 16-bit numbers
        return
    if int.from_bytes(data[30:34], "little") in (1, 2):
        raise SliceRejected("unsupported", "Run-length coded BMP is not read.")
    width, height = (int.from_bytes(data[at : at + 4], "little", signed=True) for at in (18, 22))
    check_pixels(abs(width), abs(height), max_pixels)


def _check_frame(marker: int, frame: bytes, max_pixels: int) -> None:
    if len(frame) < 6:
        raise SliceRejected("corrupt", "The JPEG's headers are damaged.")
    if marker not in _JPEG_FRAMES or frame[0] != 8:
        raise SliceRejected("unsupported", "Lossless, arithmetic and 12-bit JPEG are not read.")
    if frame[5] not in (1, 3):
        raise SliceRejected("unsupported", "CMYK JPEG is not read. CT is not stored in CMYK.")
    check_pixels(int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[1:3], "big"), max_pixels)
