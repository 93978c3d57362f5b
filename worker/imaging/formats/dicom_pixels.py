"""Turns the pixels of a DICOM file into stored values, frame by frame, in every transfer syntax that is used for CT.

The decoders are those of imagecodecs (libjpeg-turbo, CharLS, OpenJPEG, OpenJPH, libjxl). What they report about signs
and bits is ignored: the data set decides.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from worker.imaging.formats.dicom_file import ITEM, DicomFile
from worker.imaging.formats.plain_jpeg import decode_jpeg_frame
from worker.imaging.rejections import SliceRejected

Cells = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]
Decode = Callable[[bytes], NDArray[Any]]

_DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
_JPEG_XL = ("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112")


_JPEG_LS_FRAME = 0xF7  # the marker SOF55
_JPEG_LS_PRESETS = 0xF8  # the marker LSE
_CODING_PARAMETERS = 1  # the type of presets that state MAXVAL
_JPEG_FRAMES = (0xC0, 0xC1, 0xC3, _JPEG_LS_FRAME)
_SCAN = 0xDA


# Named here so that they are imported before files can no longer be opened.
_charls: Decode = imagecodecs.jpegls_decode
_jpeg2000: Decode = partial(imagecodecs.jpeg2k_decode, numthreads=1)
_jpeg_xl: Decode = partial(imagecodecs.jpegxl_decode, numthreads=1)
_rle = imagecodecs.dicomrle_decode


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the segments of a JPEG or JPEG-LS frame up to its first scan: the marker's second byte, and contents."""
    at, marker = 2, 0
    while marker != _SCAN and frame.startswith(b"\xff\xd8") and frame[at : at + 1] == b"\xff":
        marker, end = frame[at + 1], at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        yield marker, frame[at + 4 : end]
        at = end


def _jpeg_ls(frame: bytes) -> NDArray[Any]:
    """Decode a JPEG-LS frame by CharLS, which does not use the highest value that the frame states (MAXVAL).

    Raises SliceRejected(`unsupported`) unless MAXVAL is 0, as if it were not stated, or the highest value of the
    frame's bits (ITU-T T.87 C.2.4.1.1). CharLS 2.4.3 gives wrong pixels for others, without an error.
    """
    bits, stated = 0, 0
    for marker, contents in _segments(frame):
        if marker == _JPEG_LS_FRAME:
            bits = contents[0]
        elif marker == _JPEG_LS_PRESETS and contents[0] == _CODING_PARAMETERS:
            stated = int.from_bytes(contents[1:3], "big")
    if stated not in (0, (1 << bits) - 1):
        raise SliceRejected("unsupported", f"JPEG-LS of {bits} bits with the highest value {stated} is not read.")
    return np.asarray(_charls(frame))


_DECODERS: dict[str, Decode] = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), decode_jpeg_frame),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), _jpeg_ls),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000), _jpeg2000),
    **dict.fromkeys((HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), imagecodecs.htj2k_decode),
    **dict.fromkeys(_JPEG_XL, _jpeg_xl),
}
_UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
# of JPEG and JPEG 2000; without this mark, libjpeg-turbo and OpenJPH invent the missing pixels
_END_OF_IMAGE = b"\xff\xd9"
_FIRST_OFFSET = bytes(4)  # the start of an offset table; no compressed frame starts with these bytes
_RLE_HEADER = 64
_LONG_PIXEL = 32  # bits
_PADDING = 16  # the last marker of a frame must be this near to the frame's end, in bytes; zeros do not count


def frames_of(file: DicomFile, frames: int, rows: int, columns: int, allocated: int) -> Iterator[Cells]:
    """Yield each frame as it is stored, unmasked: unsigned integers[rows, columns] of `allocated` bits (8, 16 or 32).

    Raises SliceRejected: `pixels` if there are fewer bytes, frames or pixels than the header states, `unsupported` for
    a transfer syntax that cannot be read and for big-endian pixels of 32 bits, `truncated` for a frame that is cut off.
    Other errors come from the decoders.
    """
    if file.pixels is None:
        raise SliceRejected("pixels", "The file holds no pixels.")
    if file.is_encapsulated:
        yield from _decoded(file, frames, (rows, columns), allocated)
        return
    if file.syntax in _DECODERS or file.syntax == RLELossless:
        raise SliceRejected("malformed", "The pixels are stated to be compressed, but are not in fragments.")
    if file.has_big_endian_words and allocated == _LONG_PIXEL:
        raise SliceRejected("unsupported", "Big-endian pixels of 32 bits are not read.")
    size = rows * columns * allocated // 8
    pixels = _in_order(file.pixels) if file.has_big_endian_words else file.pixels
    if len(pixels) < size * frames:
        raise SliceRejected("pixels", f"{frames} × {rows} × {columns} pixels need {size * frames} bytes.")
    for at in range(0, size * frames, size):
        yield np.frombuffer(pixels[at : at + size], f"<u{allocated // 8}").reshape(rows, columns)


def _in_order(words: memoryview) -> memoryview:
    """Return big-endian words of two bytes as little-endian words. 8-bit pixels are stored in these words too."""
    whole = words[: len(words) - len(words) % 2]
    return memoryview(np.frombuffer(whole, ">u2").astype("<u2").tobytes())


def _decoded(file: DicomFile, frames: int, shape: tuple[int, int], allocated: int) -> Iterator[Cells]:
    count = 0
    for frame in _frames(file.pixels or memoryview(b""), frames):
        count += 1
        yield _cells(_decode(file.syntax, frame, shape, allocated), shape, allocated)
        if count == frames:
            return
    raise SliceRejected("pixels", f"There are {count} frames where {frames} are stated.")


def _frames(pixels: memoryview, frames: int) -> Iterator[bytes]:
    """Yield the frames that are stored in fragments (PS3.5 A.4).

    The offset table is used only if there are several frames, and their number is not the number of fragments. Some
    files lack the table, and then the first item is a fragment. Others have a table with too many offsets.
    """
    items = _items(pixels)
    has_table = bool(items) and (len(items[0]) <= 4 * frames or bytes(items[0][:4]) == _FIRST_OFFSET)
    fragments = [item for item in items[has_table:] if item]
    if len(fragments) == frames:
        yield from map(bytes, fragments)
    elif frames == 1:
        yield b"".join(fragments)
    else:
        yield from generate_frames(bytes(pixels), number_of_frames=frames)


def _items(pixels: memoryview) -> list[memoryview]:
    """Return the values of the items. The first item should be the offset table."""
    items, at = [], 0
    while bytes(pixels[at : at + 4]) == ITEM:
        end = at + 8 + int.from_bytes(pixels[at + 4 : at + 8], "little")
        if end > len(pixels):
            raise SliceRejected("malformed", "A fragment of the pixels is longer than the file.")
        items.append(pixels[at + 8 : end])
        at = end
    return items


def _decode(syntax: str, frame: bytes, shape: tuple[int, int], allocated: int) -> NDArray[Any]:
    if syntax == RLELossless:
        _check_rle(frame, allocated // 8)
        return np.frombuffer(_rle(frame, f"<u{allocated // 8}"), f"<u{allocated // 8}")
    if syntax == _DEFLATED_FRAMES:
        size = shape[0] * shape[1] * allocated // 8
        return np.frombuffer(zlib.decompressobj(wbits=-15).decompress(frame, size), f"<u{allocated // 8}")
    decode = _DECODERS.get(syntax) or (_decoder_for(frame) if syntax in _UNCOMPRESSED else None)
    if decode is None:
        raise SliceRejected("unsupported", f"DICOM transfer syntax {syntax[:64]} is not read.")
    if decode is not _jpeg_xl and _END_OF_IMAGE not in frame.rstrip(b"\0")[-_PADDING:]:
        raise SliceRejected("truncated", "A compressed frame ends before its pixels.")
    return np.asarray(decode(frame))


def _check_rle(frame: bytes, segments: int) -> None:
    """Check the header of an RLE frame (PS3.5 G.5), because the decoder of imagecodecs 2026.3.6 does not check it.

    Raises SliceRejected(`malformed`) unless the header names `segments` segments, one after the other, within the
    frame.
    """
    count, *offsets = struct.unpack("<16I", frame[:_RLE_HEADER].ljust(_RLE_HEADER, b"\0"))
    places = [_RLE_HEADER - 1, *offsets[:segments], len(frame)]
    if count != segments or any(first >= second for first, second in pairwise(places)):
        raise SliceRejected("malformed", "The header of an RLE frame is damaged.")


def _decoder_for(frame: bytes) -> Decode | None:
    """Return the decoder for a compressed frame in a file that wrongly states an uncompressed transfer syntax."""
    if frame.startswith(b"\xff\x4f\xff\x51"):
        return _jpeg2000
    for marker, _ in _segments(frame):
        if marker in _JPEG_FRAMES:
            return _jpeg_ls if marker == _JPEG_LS_FRAME else decode_jpeg_frame
    return None


def _squeezed(shape: tuple[int, int]) -> tuple[int, ...]:
    return tuple(side for side in shape if side > 1)


def _cells(decoded: NDArray[Any], shape: tuple[int, int], allocated: int) -> Cells:
    """Return a decoded frame as cells of the allocated bits. Signed values keep their bits."""
    if decoded.size != shape[0] * shape[1] or (decoded.ndim > 1 and decoded.squeeze().shape != _squeezed(shape)):
        raise SliceRejected("pixels", f"A frame decodes to {decoded.shape}, not to {shape} pixels.")
    if decoded.dtype.kind not in "iu" or decoded.dtype.itemsize * 8 > allocated:
        raise SliceRejected("pixels", f"A frame decodes to {decoded.dtype}, which is not of {allocated} bits.")
    cells = decoded.reshape(shape)
    return cells.astype(f"u{allocated // 8}", copy=False)
