"""CT slices in DICOM: known values come out as known greys, and what is damaged or no CT slice is rejected."""

import hashlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from tests.worker.imaging.builders import ct_dataset, dataset_bytes, dicom, grey
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.recipe import PreparedSlice, SeriesInfo, fit, lung_window
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

LIMITS = DecodeLimits()


def slice_of(data: bytes) -> PreparedSlice:
    (slice_,) = decode(data, LIMITS)
    return slice_


def rejection(data: bytes) -> SliceRejected:
    with pytest.raises(SliceRejected) as rejected:
        decode(data, LIMITS)
    return rejected.value


def code(data: bytes) -> str:
    return rejection(data).code


def flat(value: int, kind: type = np.int16) -> Any:
    return np.full((4, 6), value, kind)


def greys(stored: Any, **changes: Any) -> list[int]:
    """The greys of a slice of one stored value, as they come out."""
    return sorted(set(slice_of(dicom(stored, **changes)).pixels.ravel().tolist()))


@pytest.mark.parametrize(
    ("hu", "expected"),
    [(-3000, 0), (-1350, 0), (-1349, 0), (-1347, 1), (-600, 128), (-601, 127), (149, 255), (150, 255), (3000, 255)],
)
def test_known_hu_become_known_greys(hu: int, expected: int) -> None:
    assert lung_window(np.array([float(hu)])).tolist() == [expected]
    assert greys(flat(hu + 1024)) == [expected]
    assert greys(flat(hu), RescaleIntercept=0) == [expected]
    assert greys(flat(hu * 2), RescaleSlope="0.5", RescaleIntercept=0) == [expected]


def test_the_window_is_the_standards_formula_for_every_value() -> None:
    """PS3.3 C.11.2.1.2.1, written out case by case."""
    for hu in range(-1500, 300):
        if hu <= -600 - 0.5 - 1499 / 2:
            exact = 0.0
        elif hu > -600 - 0.5 + 1499 / 2:
            exact = 255.0
        else:
            exact = ((hu - (-600 - 0.5)) / 1499 + 0.5) * 255
        assert lung_window(np.array([float(hu)]))[0] == int(exact + 0.5)


def test_unsigned_signed_and_eight_bit_values() -> None:
    assert greys(flat(424, np.uint16)) == [128]
    assert greys(flat(424, np.int16)) == [128]
    assert greys(flat(-600, np.int16), RescaleIntercept=0) == [128]
    assert greys(flat(200, np.uint8), RescaleIntercept=-800) == [128]
    assert greys(flat(-100, np.int8), RescaleIntercept=-500) == [128]


def test_bits_above_bits_stored_are_masked_and_the_sign_is_where_they_end() -> None:
    twelve: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    assert greys(flat(0xF000 | 424, np.uint16), **twelve) == [128]
    assert greys(flat(-600 & 0x0FFF, np.int16), RescaleIntercept=0, **twelve) == [128]
    assert greys(flat(-600, np.int16), RescaleIntercept=0, **twelve) == [128]


def test_monochrome1_is_inverted() -> None:
    for hu, expected in ((-1350, 255), (150, 0), (-600, 127)):
        assert greys(flat(hu + 1024), PhotometricInterpretation="MONOCHROME1") == [expected]
    inverted = slice_of(dicom(PhotometricInterpretation="MONOCHROME1"))
    assert inverted.mode == "MONOCHROME1"


def test_padding_is_black_whatever_its_value() -> None:
    assert greys(flat(-600), RescaleIntercept=0, PixelPaddingValue=-600) == [0]
    assert greys(flat(424, np.uint16), PixelPaddingValue=424) == [0]
    assert greys(flat(424, np.uint16), PixelPaddingValue=425) == [128]
    assert greys(flat(424, np.uint16), PixelPaddingValue=500, PixelPaddingRangeLimit=400) == [0]
    assert greys(flat(-600), RescaleIntercept=0, PixelPaddingValue=-600, PhotometricInterpretation="MONOCHROME1") == [0]


def test_padding_outside_of_the_stored_bits_is_still_padding() -> None:
    assert greys(flat(0xF830, np.uint16), BitsStored=12, HighBit=11, PixelPaddingValue=0xF830) == [0]
    assert greys(flat(0x0830, np.uint16), BitsStored=12, HighBit=11, PixelPaddingValue=0xF830) == [255]


def test_a_slice_is_windowed_then_fitted() -> None:
    stored = grey(70, 50).astype(np.int16) * 6
    slice_ = slice_of(dicom(stored))
    assert (slice_.pixels == fit(Image.fromarray(lung_window(stored - 1024.0)))).all()
    assert (slice_.width, slice_.height, slice_.format, slice_.mode) == (70, 50, "DICOM", "MONOCHROME2")


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("form", ["file", "no preamble", "dataset alone"])
def test_every_uncompressed_form_is_read_alike(implicit: bool, form: str) -> None:
    whole = dicom(implicit=implicit)
    bare = dataset_bytes(ct_dataset(grey().astype(np.int16) * 8), implicit=implicit)
    data = {"file": whole, "no preamble": whole[132:], "dataset alone": bare}[form]
    assert slice_of(data).sha256_pixels == slice_of(dicom()).sha256_pixels
    assert slice_of(data).series == slice_of(dicom()).series


def test_an_odd_number_of_bytes_is_padded() -> None:
    assert greys(np.full((3, 5), 200, np.uint8), RescaleIntercept=-800, PixelData=b"\xc8" * 15) == [128]


def test_series_is_read_and_patient_data_is_not() -> None:
    slice_ = slice_of(dicom())
    assert slice_.series == SeriesInfo(
        patient=hashlib.blake2b(b"SECRET-ID", digest_size=16).hexdigest(),
        study_uid="1.2.3",
        series_uid="1.2.3.4",
        series_number=7,
        description="Thorax 1.0 Lunge",
        instance_number=12,
        sop_uid=slice_.series.sop_uid if slice_.series else "",
        position=55.5,
        orientation="1\\0\\0\\0\\1\\0",
    )
    assert "SECRET" not in repr(slice_).upper()


def test_text_is_read_in_its_character_set_and_kept_harmless() -> None:
    series = slice_of(dicom(SpecificCharacterSet="ISO_IR 144", SeriesDescription="Лёгкие")).series
    assert series is not None
    assert series.description == "Лёгкие"
    series = slice_of(
        dicom(SpecificCharacterSet="ISO_IR 192", SeriesDescription="Brust\u202eX", SeriesNumber=None)
    ).series
    assert series is not None
    assert (series.description, series.series_number) == ("Brust<U+202E>X", None)


def identified(raw: bytes, charset: str | None = None, **changes: Any) -> list[PreparedSlice]:
    """The slices of a file whose patient ID has these bytes, at most 16."""
    whole = dicom(PatientID="P" * 16, SpecificCharacterSet=charset, **changes)
    return list(decode(whole.replace(b"P" * 16, raw.ljust(16)), LIMITS))


@pytest.mark.parametrize("charset", ["ISO_IR 192", "ISO 2022 IR 87", "GB18030", None])
@pytest.mark.parametrize(
    "ids",
    [(b"M\xfcller 1", b"M\xf6ller 1", b"Mller 1"), (b"Ann\x85", b"Ann\xa0", b"Ann"), (b"7\x1b$Bx", b"7\x1b$By", b"7")],
)
def test_patient_ids_of_different_bytes_stay_different_in_a_wrong_character_set(
    charset: str | None, ids: tuple[bytes, ...]
) -> None:
    patients = {series.patient for raw in ids if (series := identified(raw, charset)[0].series)}
    assert len(patients - {""}) == len(ids)


@pytest.mark.parametrize(
    ("raw", "charset", "noted", "shown"),
    [
        (b"M\xfcller", "ISO_IR 192", ("bad_charset",), "Müller"),
        (b"M\xfcller", "ISO_IR 100", (), "Müller"),
        ("Müller".encode(), "ISO_IR 192", (), "Müller"),
        (b"7", "ISO_IR 192", (), "7"),
    ],
)
def test_text_that_does_not_fit_its_character_set_is_noted(
    raw: bytes, charset: str, noted: tuple[str, ...], shown: str
) -> None:
    assert [slice_.notes for slice_ in identified(raw, charset)] == [noted]
    text = dicom(SpecificCharacterSet=charset, SeriesDescription="D" * 16).replace(b"D" * 16, raw.ljust(16))
    slice_ = slice_of(text)
    assert slice_.series is not None
    assert (slice_.notes, slice_.series.description) == (noted, shown)


def test_frames_of_a_file_with_a_wrong_character_set_are_of_one_patient() -> None:
    frames = identified(
        b"M\xfcller", "ISO_IR 192", NumberOfFrames=2, PixelData=2 * (grey().astype(np.int16) * 8).tobytes()
    )
    assert len({frame.series.patient for frame in frames if frame.series}) == 1
    assert [frame.notes for frame in frames] == [("bad_charset",)] * 2


@pytest.mark.parametrize(
    ("changes", "position"),
    [
        ({"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.8, 0.6], "ImagePositionPatient": [7.0, 5.0, 10.0]}, 5.0),
        ({"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, -2.0, 0.0], "ImagePositionPatient": [7.0, 5.0, 10.0]}, 10.0),
        ({"ImageOrientationPatient": [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]}, 55.5),
        ({"ImageOrientationPatient": [0.0] * 6, "SliceLocation": "-99"}, 55.5),
        ({"ImageOrientationPatient": None, "SliceLocation": "-99"}, 55.5),
        ({"ImageOrientationPatient": None, "ImagePositionPatient": [1.0, 2.0]}, None),
    ],
)
def test_the_position_runs_along_the_normal(changes: dict[str, Any], position: float | None) -> None:
    series = slice_of(dicom(**changes)).series
    assert series is not None
    assert series.position == position


def test_one_position_of_a_file_of_several_frames_is_not_that_of_each_frame() -> None:
    stored = np.stack([grey().astype(np.int16) * 8] * 3)
    slices = decode(dicom(stored[0], NumberOfFrames=3, SliceLocation="5", PixelData=stored.tobytes()), LIMITS)
    places = [(slice_.series.position, slice_.series.location) for slice_ in slices if slice_.series]
    assert places == [(None, None)] * 3


@pytest.mark.parametrize("position", [55.5, None])
@pytest.mark.parametrize("location", [-7.25, None])
def test_slice_location_is_read_beside_the_position_and_never_is_one(
    location: float | None, position: float | None
) -> None:
    corner = None if position is None else [0.0, 0.0, position]
    series = slice_of(dicom(SliceLocation=location, ImagePositionPatient=corner)).series
    assert series is not None
    assert (series.position, series.location) == (position, location)


@pytest.mark.parametrize(
    ("keyword", "field"),
    [("StudyInstanceUID", "study_uid"), ("SeriesInstanceUID", "series_uid"), ("SOPInstanceUID", "sop_uid")],
)
@pytest.mark.parametrize(
    ("stated", "uid", "notes"),
    [
        (b"REMOVED ", "", ("bad_uid",)),
        (b"Anonymised^by tool", "", ("bad_uid",)),
        (b"ID_000039fa0", "ID_000039fa0", ("bad_uid",)),
        (b"1.2.840.7\0", "1.2.840.7", ()),
        (b" 1.2.840.7  ", "1.2.840.7", ()),
    ],
    ids=["dummy", "words", "hash", "NUL", "blanks"],
)
def test_text_in_place_of_a_uid_counts_only_if_it_has_digits(
    keyword: str, field: str, stated: bytes, uid: str, notes: tuple[str, ...]
) -> None:
    mark = "9" * len(stated)
    slice_ = slice_of(dicom(**{keyword: mark}).replace(mark.encode(), stated))
    assert (getattr(slice_.series, field), slice_.notes) == (uid, notes)


def test_a_slice_without_a_series_names_none() -> None:
    series = slice_of(dicom(SeriesInstanceUID=None)).series
    assert series is not None
    assert series.series_uid == ""


def test_patients_differ_by_id_and_issuer() -> None:
    def patient(**changes: Any) -> tuple[str, str]:
        series = slice_of(dicom(**changes)).series
        assert series is not None
        return series.patient, series.issuer

    assert patient(PatientID="7") == patient(PatientID=" 7 ", PatientName="Other^Name", IssuerOfPatientID=" ")
    assert patient(PatientID="7") != patient(PatientID="8")
    assert patient(PatientID="7")[0] == patient(PatientID="7", IssuerOfPatientID="A")[0]
    issuers = [("7", "A"), ("7", "B"), ("8", "A"), ("7", None)]
    assert len({patient(PatientID=own, IssuerOfPatientID=issuer)[1] for own, issuer in issuers}) == 4
    assert patient(PatientID="") == patient(PatientID=None) == patient(PatientID=" ", IssuerOfPatientID="A") == ("", "")


def test_birth_date_and_sex_are_digests_that_belong_to_the_id() -> None:
    def person(**changes: Any) -> tuple[str, str]:
        series = slice_of(dicom(**changes)).series
        assert series is not None
        return series.birth_date, series.sex

    stated = {"PatientBirthDate": "19500131", "PatientSex": "F"}
    born, sex = person(**stated)
    assert len({born, sex, ""}) == 3
    assert person(**stated | {"PatientBirthDate": "19510131"}) != (born, sex)
    assert person(**stated | {"PatientSex": "M"})[0] == born
    assert not set(person(**stated, PatientID="another")) & {born, sex}
    assert person(PatientBirthDate="1950", PatientSex="O") == person(**stated, PatientID="") == person() == ("", "")


def nested(depth: int, *, defined: bool) -> Dataset:
    inner = Dataset()
    inner.CodeMeaning = "end"
    for _ in range(depth):
        outer = Dataset()
        outer.ConceptNameCodeSequence = Sequence([inner])
        outer["ConceptNameCodeSequence"].is_undefined_length = not defined
        inner.is_undefined_length_sequence_item = not defined
        inner = outer
    return inner


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("defined", [False, True])
def test_row_26_sequences_nested_300_deep_are_malformed(implicit: bool, defined: bool) -> None:
    for depth, outcome in ((10, ""), (300, "malformed")):
        dataset = ct_dataset(grey().astype(np.int16) * 8)
        pixels = nested(depth, defined=defined)
        element = dataset_bytes(pixels, implicit=implicit) if depth < 50 else deep(depth, implicit, defined)
        head = dataset_bytes(dataset, implicit=implicit)
        at = head.index(struct.pack("<2H", 0x7FE0, 0x0010))
        data = head[:at] + element + head[at:]
        assert (code(data) if outcome else "") == outcome
        if not outcome:
            assert slice_of(data).format == "DICOM"


def deep(depth: int, implicit: bool, defined: bool) -> bytes:
    """Sequences in sequences, (0040,A043), written inside out: pydicom itself would recurse too far."""
    tag, body = struct.pack("<2H", 0x0040, 0xA043), b""
    item, end, close = (struct.pack("<2H", 0xFFFE, e) for e in (0xE000, 0xE00D, 0xE0DD))
    for _ in range(depth):
        header = tag if implicit else tag + b"SQ\x00\x00"
        if defined:
            body = item + struct.pack("<I", len(body)) + body
            body = header + struct.pack("<I", len(body)) + body
        else:
            body = header + b"\xff" * 4 + item + b"\xff" * 4 + body + end + bytes(4) + close + bytes(4)
    return body


@pytest.mark.parametrize("implicit", [False, True])
def test_row_26_an_element_longer_than_the_file_is_malformed(implicit: bool) -> None:
    whole = dicom(implicit=implicit)
    for length in range(200, len(whole) - 1, 61):
        assert code(whole[:length]) == "malformed", length
    at = whole.index(struct.pack("<2H", 0x0028, 0x1052))
    bad = bytearray(whole)
    bad[at + (4 if implicit else 6) : at + 8] = b"\xfe\xff\xff\x0f" if implicit else b"\xfe\xff"
    assert code(bytes(bad)) == "malformed"


def test_row_27_rows_by_columns_unlike_the_pixel_data_is_pixels() -> None:
    stored = flat(100)
    for changes in ({"Rows": 5}, {"Columns": 7}, {"PixelData": b""}, {"PixelData": bytes(46)}, {"PixelData": None}):
        assert code(dicom(stored, **changes)) == "pixels"
    assert code(dicom(stored, NumberOfFrames=2)) == "pixels"
    assert code(dicom(stored, Rows=60_000, Columns=60_000)) == "pixels"


WHOLE = dicom()
DAMAGE = {
    "cut in the pixels": (WHOLE[:-200], "malformed"),
    "cut before the pixels": (WHOLE[: WHOLE.index(struct.pack("<2H", 0x7FE0, 0x0010))], "pixels"),
    "fewer pixels": (dicom(Rows=5000), "pixels"),
    "no rescale": (dicom(RescaleSlope=None), "malformed"),
    "broken compression": (dicom(syntax="1.2.840.10008.1.2.4.80"), "truncated"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_with_damaged_pixels_states_its_series(damage: str) -> None:
    data, reason = DAMAGE[damage]
    rejected = rejection(data)
    assert (rejected.code, rejected.series) == (reason, slice_of(WHOLE).series)


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[:400],
        dicom(RescaleType="US", RescaleIntercept=5),
        dicom(SamplesPerPixel=3),
        dicom(Modality="MR")[:-200],
    ],
    ids=["cut in the header", "not HU", "colour", "cut MR"],
)
def test_a_file_that_is_rejected_for_another_reason_states_no_series(data: bytes) -> None:
    assert rejection(data).series is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]}, "not_axial"),
        ({"BodyPartExamined": "HEAD"}, "not_chest"),
    ],
)
def test_a_damaged_file_that_is_set_apart_stays_set_apart(changes: dict[str, Any], reason: str) -> None:
    rejected = rejection(dicom(**changes)[:-200])
    assert (rejected.code, rejected.series) == (reason, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": "MR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
        {"Modality": "PT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"},
        {"Modality": "SR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11"},
        {"Modality": "MR"},
        {"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "SCREEN"]},
    ],
    ids=["MR", "PET", "SR", "MR by modality", "MR of another kind"],
)
def test_row_33_objects_other_than_ct_slices_are_not_ct(changes: dict[str, Any]) -> None:
    assert code(dicom(**changes)) == "not_ct"


@pytest.mark.parametrize(
    "changes",
    [
        {"syntax": "1.2.840.10008.1.2.4.100"},  # MPEG-2
        {"syntax": "1.2.3.4"},
        {"RescaleType": "US", "RescaleIntercept": 0},
        {"RescaleType": "US", "RescaleSlope": 2},
        {"RescaleType": "OD"},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"BitsStored": 12, "HighBit": 15},
        {"BitsAllocated": 64},
    ],
    ids=str,
)
def test_unsupported_dicom_is_rejected_as_such(changes: dict[str, Any]) -> None:
    assert code(dicom(**changes)) == "unsupported"


def test_row_25_a_deflated_bomb_is_inflated_up_to_the_cap_only() -> None:
    whole = dicom(syntax="1.2.840.10008.1.2.1.99")
    start = whole.index(b"1.2.840.10008.1.2.1.99") + 22
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = whole[:start] + deflater.compress(bytes(30_000_000)) + deflater.flush()
    tracemalloc.start()
    try:
        with pytest.raises(SliceRejected) as rejected:
            decode(bomb, DecodeLimits(max_pixels=1_000_000))
        assert tracemalloc.get_traced_memory()[1] < 15_000_000
    finally:
        tracemalloc.stop()
    assert rejected.value.code == "too_large_unpacked"


@pytest.mark.parametrize(
    "changes",
    [
        {"Rows": None},
        {"Columns": 0},
        {"RescaleSlope": None},
        {"RescaleIntercept": None},
        {"RescaleSlope": 0},
        {"BitsStored": 0},
        {"BitsStored": 17},
        {"PixelRepresentation": 2},
        {"PixelRepresentation": None},
    ],
    ids=str,
)
def test_slice_without_a_required_value_is_malformed(changes: dict[str, Any]) -> None:
    assert code(dicom(**changes)) == "malformed"


def test_rescale_that_is_not_a_number_is_malformed() -> None:
    for text in (b"abcd", b"1e999 ", b"nan ", b"1\\2 "):
        whole = dicom(RescaleSlope="12345678"[: len(text)])
        assert code(whole.replace(b"12345678"[: len(text)], text)) == "malformed"


def test_row_28_an_executable_or_tiff_preamble_is_accepted() -> None:
    whole = dicom()
    for preamble in (b"MZ\x90\x00", b"II*\x00\x08\x00\x00\x00", b"\x7fELF"):
        assert slice_of(preamble.ljust(128, b"\x00") + whole[128:]).format == "DICOM"


def test_bytes_behind_the_pixels_are_passed_over() -> None:
    for tail in (bytes(300), bytes(300) + b"x", b"scanner log"):
        assert slice_of(dicom() + tail).sha256_pixels == slice_of(dicom()).sha256_pixels


def test_pixels_longer_than_rows_by_columns_are_accepted() -> None:
    stored = grey().astype(np.int16) * 8
    assert (
        slice_of(dicom(stored, PixelData=stored.tobytes() + bytes(64))).sha256_pixels
        == slice_of(dicom(stored)).sha256_pixels
    )


@pytest.mark.parametrize("kind", ["HU", "hu", "Hounsfield Unit", "Houndsfield Units", "HU_MOD", None])
def test_every_spelling_of_hounsfield_units_is_read(kind: str | None) -> None:
    assert greys(flat(424), RescaleType=kind) == [128]


@pytest.mark.parametrize("kind", ["US", "OD", "Z_EFF"])
def test_rescale_that_is_not_of_hounsfield_units_is_named(kind: str) -> None:
    with pytest.raises(SliceRejected, match=kind) as rejected:
        decode(dicom(flat(424), RescaleType=kind, RescaleIntercept=0), LIMITS)
    assert rejected.value.code == "unsupported"


def test_unspecified_rescale_counts_as_hounsfield_units_if_it_is_that_of_ct_scanners() -> None:
    assert greys(flat(424), RescaleType="US") == [128]
    assert greys(flat(400), RescaleType="US", RescaleIntercept=-1000) == [128]


def test_slice_with_a_modality_table_is_rejected_and_the_table_is_named() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], b"\0\0"
    with pytest.raises(SliceRejected, match="Modality LUT") as rejected:
        decode(dicom(flat(424), ModalityLUTSequence=Sequence([table])), LIMITS)
    assert rejected.value.code == "unsupported"


def test_empty_modality_table_is_no_table() -> None:
    assert greys(flat(424), ModalityLUTSequence=Sequence([])) == [128]


DAMAGED = {"3 bytes": (b"US", b"\1\2\3"), "text": (b"SQ", b"ANON"), "zeros": (b"SQ", bytes(4)), "a byte": (b"FD", b"1")}


def with_damaged(keyword: str, vr: bytes, value: bytes) -> bytes:
    """A slice in which an element has a damaged value."""
    tag = BaseTag(tag_for_keyword(keyword) or 0)
    length = bytes(2) + struct.pack("<I", len(value)) if vr == b"SQ" else struct.pack("<H", len(value))
    stated = ct_dataset(flat(424)).values()
    before, after = ({one.tag: one for one in stated if sign * one.tag < sign * tag} for sign in (1, -1))
    damaged = struct.pack("<2H", tag.group, tag.elem) + vr + length + value
    return damaged.join(dataset_bytes(Dataset(part)) for part in (before, after))


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize(
    "keyword",
    [
        "InstanceNumber",
        "SeriesNumber",
        "SliceLocation",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "AnatomicRegionSequence",
    ],
)
def test_damaged_element_that_the_pixels_do_not_need_is_noted(keyword: str, kind: str) -> None:
    slice_ = slice_of(with_damaged(keyword, *DAMAGED[kind]))
    assert sorted(set(slice_.pixels.ravel().tolist())) == [128]
    assert "damaged_element" in slice_.notes


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize(
    "keyword",
    [
        "PixelPaddingValue",
        "ModalityLUTSequence",
        "RealWorldValueMappingSequence",
        "SharedFunctionalGroupsSequence",
        "RescaleSlope",
    ],
)
def test_damaged_element_that_the_pixels_need_is_named(keyword: str, kind: str) -> None:
    rejected = rejection(with_damaged(keyword, *DAMAGED[kind]))
    assert rejected.code == "malformed"
    assert rejected.detail == f"{keyword} is damaged."


@pytest.mark.parametrize("frames", [0, None, 1])
def test_no_number_of_frames_is_one_frame(frames: int | None) -> None:
    assert greys(flat(424), NumberOfFrames=frames) == [128]


def test_negative_number_of_frames_is_malformed() -> None:
    assert code(dicom(NumberOfFrames=-1)) == "malformed"


def test_decimal_comma_is_a_point() -> None:
    whole = dicom(flat(848), RescaleSlope="0.5", RescaleIntercept="-1024.0")
    assert greys_of(whole.replace(b"-1024.0 ", b"-1024,0 ").replace(b"0.5 ", b"0,5 ")) == [128]


def greys_of(data: bytes) -> list[int]:
    return sorted(set(slice_of(data).pixels.ravel().tolist()))


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<2H", group, number) + vr + struct.pack("<H", len(value)) + value


SLOPE = element(0x0028, 0x1053, b"DS", b"1 ")


@pytest.mark.parametrize(
    "harm",
    [
        SLOPE[:4] + b"\0\0" + SLOPE[6:],
        SLOPE[:4] + b"  " + SLOPE[6:],
        SLOPE[:4] + bytes(4) + struct.pack("<I", 2) + b"1 ",
        SLOPE[:4] + struct.pack("<I", 2) + b"1 ",
        SLOPE + struct.pack("<2HI", 0xFFFE, 0xE00D, 0),
        SLOPE + struct.pack("<2HI", 0xFFFE, 0xE0DD, 0),
        struct.pack("<2HI", 0xFFFE, 0xE000, 0) + SLOPE,
        struct.pack("<2HI", 0xFFFE, 0xE000, len(SLOPE)) + SLOPE + SLOPE,
        struct.pack("<2HI", 0xFFFE, 0xE000, 0xFFFFFFFF) + SLOPE + struct.pack("<2HI", 0xFFFE, 0xE00D, 0),
        element(0x0027, 0x1010, b"ZZ", b"12") + SLOPE,
    ],
    ids=[
        "a blank VR and a short length",
        "a VR of spaces",
        "a blank VR and a long length",
        "no VR",
        "an item's end",
        "a sequence's end",
        "an item",
        "an item with elements",
        "an item of undefined length",
        "an unknown VR",
    ],
)
def test_what_stands_in_a_wrong_place_before_the_pixels_is_passed_over(harm: bytes) -> None:
    whole = dicom(flat(424), RescaleSlope="1")
    assert SLOPE in whole
    assert greys_of(whole.replace(SLOPE, harm)) == [128]


def test_element_that_states_neither_its_type_nor_a_length_that_fits_is_malformed() -> None:
    whole = dicom(flat(424), RescaleSlope="1")
    assert code(whole.replace(SLOPE, SLOPE[:4] + b"\0\0\7\0" + SLOPE[8:])) == "malformed"


def test_first_element_may_lack_its_type() -> None:
    whole = dicom(flat(424), SpecificCharacterSet="ISO_IR 100")
    first = element(0x0008, 0x0005, b"CS", b"ISO_IR 100")
    assert greys_of(whole.replace(first, first[:4] + struct.pack("<I", 10) + first[8:])) == [128]


@pytest.mark.parametrize("implicit", [False, True])
def test_data_set_of_another_vr_than_stated_is_read(implicit: bool) -> None:
    stated, other = dicom(flat(424), implicit=implicit), dicom(flat(424), implicit=not implicit)
    start, body = (data.index(struct.pack("<2H", 0x0008, 0x0008)) for data in (stated, other))
    assert greys_of(stated[:start] + other[body:]) == [128]


def test_meta_information_may_lack_its_types() -> None:
    body = dataset_bytes(ct_dataset(flat(424)), implicit=True)
    syntax = struct.pack("<2HI", 0x0002, 0x0010, 18) + b"1.2.840.10008.1.2\0"
    for preamble in (b"", bytes(128) + b"DICM"):
        assert greys_of(preamble + syntax + body) == [128]


def test_emptied_sop_class_is_taken_from_the_meta_information() -> None:
    assert greys_of(dicom(flat(424), SOPClassUID="")) == [128]
    assert code(dicom(SOPClassUID="", Modality="MR")) == "not_ct"
    assert code(dataset_bytes(ct_dataset(flat(424), SOPClassUID=None))) == "malformed"


def test_modality_may_be_missing_where_the_sop_class_is_that_of_ct() -> None:
    assert greys_of(dicom(flat(424), Modality=None)) == [128]
    assert code(dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality=None)) == "not_ct"


def test_unknown_character_set_leaves_pixels_alone() -> None:
    for charset in (b"ISO_IR\x00 7", b"nonsense"):
        whole = dicom(flat(424), SpecificCharacterSet="ISO_IR 100")
        assert greys_of(whole.replace(b"ISO_IR 100", charset.ljust(10))) == [128]


def test_object_that_no_standard_knows_is_said_to_be_unknown() -> None:
    with pytest.raises(SliceRejected, match="unknown object"):
        decode(dicom(SOPClassUID="1.2.111.10008.2.1.4.1.1.2"), LIMITS)


def test_private_compression_is_named() -> None:
    dataset = ct_dataset(flat(1), PixelData=None)
    block = dataset.private_block(0x07A1, "ELSCINT1", create=True)
    block.add_new(0x11, "LO", "PMSCT_RLE1")
    with pytest.raises(SliceRejected, match="PMSCT_RLE1") as rejected:
        decode(dataset_bytes(dataset), LIMITS)
    assert rejected.value.code == "unsupported"


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, LIMITS) as pool:
        yield pool


def test_the_sandbox_reads_dicom_as_this_process_does(pool: DecoderPool) -> None:
    files = [
        dicom(),
        dicom(implicit=True),
        dicom(SpecificCharacterSet=["", "ISO 2022 IR 87"], SeriesDescription="胸部"),
        dicom(SpecificCharacterSet="GB18030", SeriesDescription="胸部", PixelPaddingValue=-5),
        dicom(SpecificCharacterSet="ISO_IR 6", SeriesDescription="x", SeriesInstanceUID=None),
    ]
    for (_, confined), data in zip(pool.map(enumerate(files)), files, strict=True):
        assert isinstance(confined, list)
        assert confined[0].series == slice_of(data).series
        assert confined[0].sha256_pixels == slice_of(data).sha256_pixels
    ((_, rejected),) = pool.map([(0, dicom(Modality="MR"))])
    assert isinstance(rejected, SliceRejected)
    assert rejected.code == "not_ct"


def test_picture_inside_dicom_bytes_is_recognised_by_its_first_bytes() -> None:
    file = io.BytesIO()
    Image.fromarray(grey()).save(file, "PNG")
    assert slice_of(file.getvalue()).format == "PNG"


def test_rejection_that_quotes_a_file_is_printable() -> None:
    with pytest.raises(SliceRejected) as rejected:
        decode(dicom(syntax="1.2.3.4").replace(b"1.2.3.4\x00", b"1.2.\x1b[31"), LIMITS)
    assert rejected.value.code == "unsupported"
    assert rejected.value.detail.isprintable()
