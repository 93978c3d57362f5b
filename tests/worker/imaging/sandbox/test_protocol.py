"""Frames between the pool and its decoders: what is written is read back, what is forged is refused."""

import json

import pytest

from tests.worker.imaging.builders import dicom, png
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.recipe import PIXEL_BYTES, PreparedSlice
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.protocol import NOT_MEASURED, REPLY, pack_frame, pack_reply
from worker.imaging.sandbox.reply import ForgedReply, frame_length, read_greeting, read_reply

COMMON = {"seconds": NOT_MEASURED}


def slice_header(**changes: object) -> dict[str, object]:
    series = {
        "patient": "5",
        "study_uid": "1",
        "series_uid": "2",
        "series_number": 3,
        "description": "d",
        "instance_number": None,
        "sop_uid": "4",
        "position": 1.5,
        "orientation": "1\\0\\0\\0\\1\\0",
        "burned_in": False,
        "issuer": "6",
        "birth_date": "7",
        "sex": "8",
        "frames": 20,
        "location": -2.5,
    }
    series |= {name: changes.pop(name) for name in list(changes) if name in series}
    return {
        "frame": 0,
        "format": "DICOM",
        "mode": "L",
        "width": 1,
        "height": 1,
        "notes": [],
        "series": series,
    } | changes


def answer(frame: bytes) -> list[PreparedSlice]:
    slices = read_reply(frame, 1)
    assert isinstance(slices, list)
    return slices


def test_slices_and_rejections_are_read_back() -> None:
    for data in (png(), dicom(), dicom(RescaleType=None) + b"log"):
        slices = decode(data, DecodeLimits())
        (before,), (after,) = slices, answer(pack_reply(slices))
        assert (after.pixels == before.pixels).all()
        assert after.sha256_pixels == before.sha256_pixels
        assert after.notes == before.notes
        assert (after.format, after.mode, after.width, after.height, after.series) == (
            before.format,
            before.mode,
            before.width,
            before.height,
            before.series,
        )
    (whole,) = decode(dicom(), DecodeLimits())
    for series in (None, whole.series):
        rejection = read_reply(pack_reply(SliceRejected("pixels", "line\nbreak", series)), 1)
        assert isinstance(rejection, SliceRejected)
        assert (rejection.code, rejection.detail, rejection.series) == ("pixels", "line<U+000A>break", series)


def test_an_honest_header_is_accepted() -> None:
    (slice_,) = answer(pack_frame({"slices": [slice_header()], "seconds": NOT_MEASURED}, [b"\x05" * PIXEL_BYTES]))
    assert slice_.series is not None
    assert slice_.series.position == 1.5
    assert (slice_.pixels == 5).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"frame": 1},
        {"format": "SVG"},
        {"mode": "L\x00"},
        {"mode": "x" * 17},
        {"width": 0},
        {"width": True},
        {"height": 1 << 31},
        {"height": "1"},
        {"series": []},
        {"series": {"patient_name": "x"}},
        {"description": "\u202e"},
        {"sop_uid": "1" * 129},
        {"orientation": "1\\0"},
        {"study_uid": None},
        {"patient": "\n"},
        {"issuer": None},
        {"birth_date": "1" * 65},
        {"sex": 1},
        {"burned_in": 1},
        {"series_number": 1.5},
        {"frames": "20"},
        {"position": "1"},
        {"position": float("inf")},
        {"extra": 1},
        {"notes": ["invented"]},
        {"notes": None},
    ],
    ids=str,
)
def test_a_forged_slice_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ForgedReply):
        read_reply(pack_frame({"slices": [slice_header(**changes)], "seconds": NOT_MEASURED}, [bytes(PIXEL_BYTES)]), 1)


@pytest.mark.parametrize(
    ("header", "pixels"),
    [
        ({"code": "invented", "detail": "a"}, b""),
        ({"code": ["corrupt"], "detail": "a"}, b""),
        ({"code": "corrupt", "detail": "a\nb"}, b""),
        ({"code": "corrupt", "detail": "a"}, b"x"),
        ({"code": "corrupt"}, b""),
        ({"slices": []}, b""),
        ({"slices": [slice_header()]}, bytes(PIXEL_BYTES - 1)),
        ({"slices": [slice_header(), slice_header(frame=1)]}, bytes(2 * PIXEL_BYTES)),
        ({"slices": [1]}, bytes(PIXEL_BYTES)),
        *(
            ({"code": "corrupt", "detail": "a", "seconds": seconds}, b"")
            for seconds in (None, {}, {"decode": 0.1}, {"decode": -0.1, "resize": 0.0}, {"decode": 1e9, "resize": 0.0})
        ),
        ({"code": "corrupt", "detail": "a", "series": slice_header()["series"]}, b""),  # not a DICOM file with a header
        ({"code": "localizer", "detail": "a", "series": slice_header()["series"]}, b""),  # set apart
        ({"code": "pixels", "detail": "a", "series": slice_header(sop_uid="1" * 129)["series"]}, b""),
        ({"code": "pixels", "detail": "a", "series": {}}, b""),
        ({}, b""),
    ],
)
def test_a_forged_frame_is_refused(header: dict[str, object], pixels: bytes) -> None:
    with pytest.raises(ForgedReply):
        read_reply(pack_frame(COMMON | ({"series": None} if "code" in header else {}) | header, [pixels]), 1)


def test_the_parts_of_forged_rejections_are_honest_by_themselves() -> None:
    for series in (None, slice_header()["series"]):
        rejection = read_reply(pack_frame(COMMON | {"code": "pixels", "detail": "a", "series": series}), 1)
        assert isinstance(rejection, SliceRejected)


@pytest.mark.parametrize("text", [b"", b"[]", b"nonsense", b"[" * 100_000, b"\xff\xfe", json.dumps({"a": 1}).encode()])
def test_header_that_is_not_an_answer_is_refused(text: bytes) -> None:
    with pytest.raises(ForgedReply):
        read_reply(REPLY.pack(len(text), 0) + text, 1)


@pytest.mark.parametrize(
    "header", [{"ready": 1, "unfiltered": None}, {"ready": True}, {"ready": True, "unfiltered": 1}]
)
def test_forged_greeting_is_refused(header: dict[str, object]) -> None:
    assert read_greeting(pack_frame({"ready": True, "unfiltered": "old kernel"})).unfiltered == "old kernel"
    with pytest.raises(ForgedReply):
        read_greeting(pack_frame(header))


def test_a_frame_longer_than_any_answer_is_refused_by_its_first_bytes() -> None:
    assert frame_length(REPLY.pack(100, 2 * PIXEL_BYTES), 2) == 108 + 2 * PIXEL_BYTES
    for lengths in ((1 << 31, 0), (100, 2 * PIXEL_BYTES + 1)):
        with pytest.raises(ForgedReply):
            frame_length(REPLY.pack(*lengths), 2)
