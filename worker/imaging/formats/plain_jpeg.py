"""Decodes JPEG with libjpeg-turbo, and refuses pixels that the decoder invented because its bytes ran out.

If a scan ends too early, libjpeg-turbo only warns, and fills the rest with grey or with the last value. The TurboJPEG
library, through kornia-rs, reports a warning as an error. It reads pictures of 8 bits, in less time than Pillow. Pillow
and imagecodecs do not report warnings. If one of the two decodes a picture that may be cut, extra bytes are put before
the end mark. If the pixels then differ, the decoder took the extra bytes for a part of the scan. So the scan was cut
off.
"""

import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
from imagecodecs import jpeg8_decode
from kornia_rs.io import decode_image_jpegturbo
from numpy.typing import NDArray
from PIL import Image

from worker.imaging.formats.pictures import jpeg_scans
from worker.imaging.rejections import SliceRejected

_FRAMES, _PROGRESSIVE, _LOSSLESS = (0xC0, 0xC1, 0xC2), 0xC2, 0xC3
_TABLES, _SCAN, _FILL, _END_MARK = 0xC4, 0xDA, 0xFF, b"\xff\xd9"
# none of these is all zeros, with which libjpeg-turbo itself goes on
_MORE = (b"\xfe" * 64, b"\xaa" * 64, bytes(73 * n % 255 for n in range(64)))
_BAND = 64  # rows of a picture that are compared at a time
_RESTARTS = 0xDD
_PREDICTORS: tuple[Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]], ...] = (
    lambda left, above, corner: left,
    lambda left, above, corner: above,
    lambda left, above, corner: corner,
    lambda left, above, corner: left + above - corner,
    lambda left, above, corner: left + (above - corner >> 1),
    lambda left, above, corner: above + (left - corner >> 1),
    lambda left, above, corner: left + above >> 1,
)
"""The predictors 1 to 7 of a lossless scan: a pixel from three neighbours (ITU-T T.81 table H.1)."""


def read_plain_jpeg(bare: bytes) -> Image.Image:
    """Return the picture of a `pictures.bare_jpeg`, in mode L or RGB. The pixels are those of Pillow.

    If libjpeg-turbo warns of the picture, Pillow reads it, and decodes it three more times to find invented pixels.

    Raises SliceRejected(`truncated`), MemoryError, and the errors of Pillow.
    """
    segments = _segments(bare)
    marker, start = next(segment for segment in segments if segment[0] in _FRAMES)
    frame = bare[start + 4 : _end(bare, start)]  # from the bits of a sample on (ITU-T T.81 B.2.2)
    _check_memory(frame, has_several_scans=marker == _PROGRESSIVE or bare[segments[-1][1] + 4] < frame[5])
    try:
        pixels = decode_image_jpegturbo(bare, "mono" if frame[5] == 1 else "rgb")
    except Exception:  # Pillow then tries, and its errors get reason codes
        return _read_with_pillow(bare)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _read_with_pillow(bare: bytes) -> Image.Image:
    checksums = {_checksum(_opened(longer)) for longer in _lengthened(bare)}  # one by one: a picture may take 160 MB
    picture = _opened(bare)
    if checksums != {_checksum(picture)}:
        raise SliceRejected("truncated", "The JPEG ends before its pixels.")
    return picture


def _opened(jpeg: bytes) -> Image.Image:
    with Image.open(BytesIO(jpeg), formats=("JPEG",)) as picture:
        picture.load()
    return picture


def _checksum(picture: Image.Image) -> int:
    """Return a CRC-32 of the pixels."""
    crc = 0
    for top in range(0, picture.height, _BAND):
        band = picture.crop((0, top, picture.width, min(top + _BAND, picture.height)))
        crc = zlib.crc32(band.tobytes(), crc)
    return crc


def _check_memory(frame: bytes, *, has_several_scans: bool) -> None:
    """Raise MemoryError if decoding takes more memory than there is.

    Otherwise kornia-rs would end the process, and Pillow would report damage. The coefficients of a picture with
    several scans are in memory too, two bytes each.
    """
    pixels = int.from_bytes(frame[1:3], "big") * int.from_bytes(frame[3:5], "big")
    areas = [(sampling >> 4) * (sampling & 15) for sampling in frame[7::3]]
    coefficients = pixels * sum(areas) // max([*areas, 1]) if has_several_scans else 0
    np.empty(pixels * (1 if frame[5] == 1 else 4) + 2 * coefficients, np.uint8)


def decode_jpeg_frame(frame: bytes) -> NDArray[Any]:
    """Return the pixels of a JPEG of a DICOM file, of any number of bits, lossless or not.

    A frame is decoded again only if its last pixels look invented.

    Raises SliceRejected(`truncated`), and the errors of imagecodecs.
    """
    pixels = np.asarray(jpeg8_decode(frame))
    if _may_be_cut(frame, pixels) and any((jpeg8_decode(longer) != pixels).any() for longer in _lengthened(frame)):
        raise SliceRejected("truncated", "A compressed frame ends before its pixels.")
    return pixels


def _lengthened(jpeg: bytes) -> Iterator[bytes]:
    """Yield the JPEG with more bytes before its end mark.

    Restart markers are added too, because the decoder may wait for one.
    """
    start = _segments(jpeg)[-1][1]
    end = start + jpeg_scans(jpeg[start:])[1] - len(_END_MARK)
    for first, more in enumerate(_MORE):
        # libjpeg-turbo does not go on at the two markers after the one that it waits for, so each attempt has another
        # order of markers.
        restarts = b"".join(bytes([0xFF, 0xD0 + (3 * first + number) % 8]) + more for number in range(8))
        # A byte of 0xFF at the end would make a marker of the next byte.
        yield jpeg[:end].rstrip(b"\xff") + more + restarts + jpeg[end:]


def _segments(jpeg: bytes) -> list[tuple[int, int]]:
    """Return the marker and the place of each segment up to the first scan."""
    at, segments = 2, [(0, 0)]
    while segments[-1][0] != _SCAN and at + 4 <= len(jpeg):
        while jpeg[at + 1] == _FILL:
            at += 1
        segments.append((jpeg[at + 1], at))
        at = _end(jpeg, at)
    return segments[1:]


def _end(jpeg: bytes, at: int) -> int:
    """Return the end of the segment whose marker is at `at`."""
    return at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")


def _may_be_cut(frame: bytes, pixels: NDArray[Any]) -> bool:
    """Return whether the last pixels of a frame look as if libjpeg-turbo invented them.

    Missing blocks and missing rows are of a middle grey. The rest of a block or row is decoded from bits of 0.
    """
    if pixels.ndim != 2:  # colours, which no CT has
        return False
    segments = _segments(frame)
    precision = next((frame[at + 4] for marker, at in segments if marker in (*_FRAMES, _LOSSLESS)), 8)
    if pixels[-1, -1] == 1 << (precision - 1):
        return True
    kinds = [marker for marker, _ in segments]
    if _LOSSLESS not in kinds:
        return False
    scan = _end(frame, segments[-1][1])
    predictor, shift = frame[scan - 3], frame[scan - 1] & 15
    tables = [frame[at + 4 : _end(frame, at)] for marker, at in segments if marker == _TABLES]
    if not 1 <= predictor <= 7 or shift or _RESTARTS in kinds or len(tables) != 1 or min(pixels.shape) < 2:
        return True
    above, row = pixels[-2:].astype(np.int64)
    # Differences are modulo 2^16. Some predictors shift one of the high bits down. Pixels of 8 bits lack this bit.
    modulus = 1 << (7 if pixels.dtype == np.uint8 else 16)
    differences = (row[1:] - _PREDICTORS[predictor - 1](row[:-1], above[1:], above[:-1])) % modulus
    first = tables[0][17]  # the category of differences whose code has only zeros
    if first == 0:
        run = int((differences[::-1] != 0).argmax()) if differences.any() else differences.size
        length = next(length for length, count in enumerate(tables[0][1:17], 1) if count)
        return run > 0 and not _ends_with(frame[scan:], length, run)
    return bool(differences[-1] == -((1 << first) - 1) % modulus)


def _ends_with(scan: bytes, length: int, count: int) -> bool:
    """Return whether a scan ends with bits of 0 for `count` codes of this length, and with bits of 1 up to a byte."""
    end, size = scan.rfind(_END_MARK), count * length // 8 + 2
    tail = scan[max(end - 2 * size, 0) : end].replace(b"\xff\x00", b"\xff")[-size:]
    bits = f"{int.from_bytes(tail, 'big'):0{8 * len(tail)}b}"
    return any(bits.endswith("0" * (count * length) + "1" * padding) for padding in range(8))
