"""The frames between the pool and its decoders. What comes back is checked as if a stranger had written it.

Request: length (8 bytes, little endian), the file. Reply: lengths of header and pixels (4 bytes each), the header in
JSON, the pixels of all slices one after another.
"""

import json
import math
import struct
from dataclasses import asdict, fields
from typing import Any

from db.reasons import OF_FILES
from worker.imaging.display_names import MAX_LABEL
from worker.imaging.recipe import PIXEL_BYTES, PreparedSlice, SeriesInfo, as_pixels
from worker.imaging.rejections import SliceRejected

REQUEST = struct.Struct("<Q")
REPLY = struct.Struct("<II")
MAX_HEADER = 4 * 1024 * 1024
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "DICOM")
_SERIES_FIELDS = {field.name for field in fields(SeriesInfo)}


class ForgedReply(Exception):
    """A decoder wrote what no decoder writes: it has crashed, or has been taken over."""


def pack_reply(result: list[PreparedSlice] | SliceRejected) -> bytes:
    """A decoder's answer as one frame."""
    if isinstance(result, SliceRejected):
        return pack_frame({"code": result.code, "detail": result.detail})
    slices = [
        {
            "frame": slice_.frame,
            "format": slice_.format,
            "mode": slice_.mode,
            "width": slice_.width,
            "height": slice_.height,
            "series": slice_.series and asdict(slice_.series),
        }
        for slice_ in result
    ]
    return pack_frame({"slices": slices}, b"".join(slice_.pixels.tobytes() for slice_ in result))


def pack_frame(header: dict[str, object], pixels: bytes = b"") -> bytes:
    """A frame of any header."""
    text = json.dumps(header).encode()
    return b"".join((REPLY.pack(len(text), len(pixels)), text, pixels))


def frame_length(start: bytes | bytearray, max_slices: int) -> int:
    """Bytes of the whole frame that begins with these eight. Raises ForgedReply."""
    header, pixels = REPLY.unpack_from(start)
    if header > MAX_HEADER or pixels > max_slices * PIXEL_BYTES:
        raise ForgedReply("a frame longer than any answer")
    return REPLY.size + int(header) + int(pixels)


def unpack_frame(frame: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and pixels of one whole frame. Raises ForgedReply."""
    length, _ = REPLY.unpack_from(frame)
    try:
        header = json.loads(frame[REPLY.size : REPLY.size + length], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ForgedReply("a header that is no JSON") from error
    if not isinstance(header, dict):
        raise ForgedReply("a header that is no object")
    return header, memoryview(frame)[REPLY.size + length :]


def unpack_reply(frame: bytes, max_slices: int) -> list[PreparedSlice] | SliceRejected:
    """The answer in a frame. Raises ForgedReply unless every part of it is what `pack_reply` writes."""
    header, pixels = unpack_frame(frame)
    if header.keys() == {"code", "detail"} and not pixels:
        code, detail = header["code"], _text(header["detail"], MAX_LABEL)
        if not isinstance(code, str) or code not in OF_FILES:
            raise ForgedReply("a code that does not exist")
        return SliceRejected(code, detail)
    slices = header.get("slices")
    if header.keys() != {"slices"} or not isinstance(slices, list) or not 1 <= len(slices) <= max_slices:
        raise ForgedReply("an answer of no known form")
    if len(pixels) != len(slices) * PIXEL_BYTES:
        raise ForgedReply("not as many pixels as slices")
    return [
        _slice(item, frame_number, pixels[frame_number * PIXEL_BYTES : (frame_number + 1) * PIXEL_BYTES])
        for frame_number, item in enumerate(slices)
    ]


def _slice(item: object, frame: int, pixels: memoryview) -> PreparedSlice:
    if not isinstance(item, dict) or item.keys() != {"frame", "format", "mode", "width", "height", "series"}:
        raise ForgedReply("a slice of no known form")
    if item["frame"] != frame or item["format"] not in _FORMATS:
        raise ForgedReply("a frame or format that cannot be")
    width, height = _whole(item["width"]), _whole(item["height"])
    if width < 1 or height < 1:
        raise ForgedReply("a size that cannot be")
    series = None if item["series"] is None else _series(item["series"])
    return PreparedSlice(as_pixels(pixels), frame, item["format"], _text(item["mode"], 16), width, height, series)


def _series(item: object) -> SeriesInfo:
    if not isinstance(item, dict) or item.keys() != _SERIES_FIELDS:
        raise ForgedReply("a series of no known form")
    position = item["position"]
    if position is not None and (not isinstance(position, float) or not math.isfinite(position)):
        raise ForgedReply("a position that is no number")
    if not isinstance(item["burned_in"], bool):
        raise ForgedReply("an answer that is neither yes nor no")
    return SeriesInfo(
        patient=_text(item["patient"], 64),
        study_uid=_text(item["study_uid"], 64),
        series_uid=_text(item["series_uid"], 64),
        series_number=_whole_or_none(item["series_number"]),
        description=_text(item["description"], 64),
        instance_number=_whole_or_none(item["instance_number"]),
        sop_uid=_text(item["sop_uid"], 64),
        position=position,
        burned_in=item["burned_in"],
    )


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise ForgedReply("a text that cannot be")
    return value


def _whole(value: object) -> int:
    if type(value) is not int or abs(value) >= 1 << 31:
        raise ForgedReply("a number that cannot be")
    return value


def _whole_or_none(value: object) -> int | None:
    return None if value is None else _whole(value)


def _refuse_constant(name: str) -> None:
    raise ForgedReply(f"{name} in a header")
