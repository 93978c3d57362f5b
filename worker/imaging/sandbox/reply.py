"""Reads the answers of decoders, and checks them as if a stranger had written them."""

from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from db.reasons import DAMAGED, OF_FILES, SLICE_NOTES
from db.timing import stages
from db.timing.stages import Stage
from worker.imaging.display_names import MAX_NAME
from worker.imaging.recipe import PIXEL_BYTES, PreparedSlice, SeriesInfo, as_pixels
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.protocol import REPLY

MAX_HEADER = 4 * 1024 * 1024
MAX_SECONDS = 3600.0  # processor time for one file; a decoder is stopped long before that
T = TypeVar("T")


class ForgedReply(Exception):
    """A decoder wrote an invalid answer: it has crashed, or a file has taken it over."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


Text = Annotated[str, AfterValidator(_printable)]
Word = Annotated[Text, Field(max_length=64)]
Uid = Annotated[Text, Field(max_length=128)]
Orientation = Annotated[str, Field(pattern=r"^([-+.0-9e]{1,20}(\\[-+.0-9e]{1,20}){5})?$")]
Whole = Annotated[int, Field(gt=-(1 << 31), lt=1 << 31)]
Side = Annotated[int, Field(ge=1, lt=1 << 31)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Greeting(_Strict):
    """The first frame of a decoder. `unfiltered`: why the decoder has no system call filter, or None if it has one."""

    ready: bool
    unfiltered: str | None


class _Seconds(_Strict):
    decode: Seconds
    resize: Seconds


_CHECKED: Any = {str: Word, int | None: Whole | None, float | None: Finite | None, bool: bool}
_SERIES: Any = {field.name: (_CHECKED[field.type], ...) for field in fields(SeriesInfo)} | {
    "study_uid": (Uid, ...),
    "series_uid": (Uid, ...),
    "sop_uid": (Uid, ...),
    "orientation": (Orientation, ...),
}
_Series: Any = create_model("_Series", __base__=_Strict, **_SERIES)


class _Rejection(_Strict):
    seconds: _Seconds
    code: str
    detail: Annotated[Text, Field(max_length=MAX_NAME)]
    series: _Series | None


def _note(code: str) -> str:
    if code not in SLICE_NOTES:
        raise ValueError("not a note")
    return code


class _Slice(_Strict):
    frame: int
    format: Literal["PNG", "JPEG", "TIFF", "BMP", "DICOM", "NIfTI"]
    mode: Annotated[Text, Field(max_length=16)]
    width: Side
    height: Side
    series: _Series | None
    notes: Annotated[list[Annotated[str, AfterValidator(_note)]], Field(max_length=len(SLICE_NOTES))]


class _Slices(_Strict):
    seconds: _Seconds
    slices: list[_Slice]


_ANSWER: TypeAdapter[_Rejection | _Slices] = TypeAdapter(_Rejection | _Slices)
_GREETING = TypeAdapter(Greeting)


def frame_length(start: bytes | bytearray, max_slices: int) -> int:
    """Return the length of the frame that begins with these eight bytes. Raises ForgedReply."""
    header, pixels = REPLY.unpack_from(start)
    if header > MAX_HEADER or pixels > max_slices * PIXEL_BYTES:
        raise ForgedReply("a frame longer than any answer")
    return REPLY.size + int(header) + int(pixels)


def read_greeting(frame: bytes) -> Greeting:
    """Return the greeting in a frame. Raises ForgedReply."""
    greeting, _ = _read(_GREETING, frame)
    if not greeting.ready:
        raise ForgedReply("no greeting")
    return greeting


def read_reply(frame: bytes, max_slices: int) -> list[PreparedSlice] | SliceRejected:
    """Return the answer in a frame. Count the processor time that the answer states.

    Raises ForgedReply unless every part of the answer could come from `pack_reply`.
    """
    answer, pixels = _read(_ANSWER, frame)
    result = _result(answer, pixels, max_slices)
    slices = len(result) if isinstance(result, list) else 1
    stages.add(Stage.DECODE, answer.seconds.decode, slices)
    stages.add(Stage.RESIZE, answer.seconds.resize, slices)
    return result


def _result(answer: "_Rejection | _Slices", pixels: memoryview, max_slices: int) -> list[PreparedSlice] | SliceRejected:
    if isinstance(answer, _Rejection):
        if pixels or answer.code not in OF_FILES:
            raise ForgedReply("a rejection with pixels, or with a code that does not exist")
        if answer.series and answer.code not in DAMAGED:
            raise ForgedReply("a series of a file that is not damaged")
        return SliceRejected(answer.code, answer.detail, _info(answer.series))
    count = len(answer.slices)
    if not 1 <= count <= max_slices or len(pixels) != count * PIXEL_BYTES:
        raise ForgedReply("not as many pixels as slices")
    if [slice_.frame for slice_ in answer.slices] != list(range(count)):
        raise ForgedReply("frames out of order")
    return [
        _prepared(slice_, pixels[at : at + PIXEL_BYTES])
        for slice_, at in zip(answer.slices, range(0, len(pixels), PIXEL_BYTES), strict=True)
    ]


def _read(kind: TypeAdapter[T], frame: bytes) -> tuple[T, memoryview]:
    length, _ = REPLY.unpack_from(frame)
    end = REPLY.size + length
    try:
        return kind.validate_json(frame[REPLY.size : end]), memoryview(frame)[end:]
    except ValidationError as error:
        raise ForgedReply(f"{error.error_count()} faults in its header") from error


def _prepared(slice_: _Slice, pixels: memoryview) -> PreparedSlice:
    place = (slice_.frame, slice_.format, slice_.mode, slice_.width, slice_.height)
    return PreparedSlice(as_pixels(pixels), *place, _info(slice_.series), tuple(slice_.notes))


def _info(series: Any) -> SeriesInfo | None:
    return SeriesInfo(**vars(series)) if series else None
