"""Defines the frames between the pool and its decoders, and packs the frames of decoders, which `reply` reads.

Request: the length (8 bytes, little endian), then the file. Reply: the lengths of header and pixels (4 bytes each), the
header in JSON, then the pixels of all slices one after the other. The header also states the processor time.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from worker.imaging.recipe import PreparedSlice
from worker.imaging.rejections import SliceRejected

REQUEST = struct.Struct("<Q")
REPLY = struct.Struct("<II")
FILTER_REQUIRED, FILTER_OPTIONAL = "required", "optional"
NOT_MEASURED = {"decode": 0.0, "resize": 0.0}
_FIELDS = ("frame", "format", "mode", "width", "height", "notes")


def pack_reply(result: list[PreparedSlice] | SliceRejected, seconds: Mapping[str, float] = NOT_MEASURED) -> bytes:
    """Return a decoder's answer as a frame. `seconds`: the core-seconds of each stage that `NOT_MEASURED` names."""
    if isinstance(result, SliceRejected):
        reason = {"code": result.code, "detail": result.detail}
        return pack_frame({**reason, "series": _series(result), "seconds": dict(seconds)})
    slices = [{name: getattr(slice_, name) for name in _FIELDS} | {"series": _series(slice_)} for slice_ in result]
    return pack_frame({"slices": slices, "seconds": dict(seconds)}, [slice_.pixels.data for slice_ in result])


def _series(result: PreparedSlice | SliceRejected) -> dict[str, object] | None:
    return asdict(result.series) if result.series else None


def pack_frame(header: dict[str, object], pixels: Sequence[memoryview | bytes] = ()) -> bytes:
    """Return a frame with this header and these pixels. Copy the pixels only once, because a scan has 100 MB."""
    text = json.dumps(header).encode()
    return b"".join((REPLY.pack(len(text), sum(memoryview(part).nbytes for part in pixels)), text, *pixels))
