"""What was odd about a file and did no harm is noted on its slices."""

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from db.reasons import SLICE_NOTES
from tests.worker.imaging.builders import ct_dataset, dataset_bytes, dicom, grey, image
from tests.worker.imaging.formats.test_dicom_pixels import LOSSLESS, compressed
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.rejections import SliceRejected

STORED = grey().astype(np.int16) * 8
SLOPE = struct.pack("<2H2sH", 0x0028, 0x1053, b"DS", 2) + b"1 "
TWELVE: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
JPEG_LS = "1.2.840.10008.1.2.4.80"


def other_vr(implicit: bool) -> bytes:
    stated, other = dicom(STORED, implicit=implicit), dicom(STORED, implicit=not implicit)
    start, body = (data.index(struct.pack("<2H", 0x0008, 0x0008)) for data in (stated, other))
    return stated[:start] + other[body:]


def jpeg_ls(syntax: str = JPEG_LS, **changes: Any) -> bytes:
    return compressed([LOSSLESS[JPEG_LS](STORED)], ct_dataset(STORED, **changes), syntax)


INSTANCE = struct.pack("<2H", 0x20, 0x13) + b"IS\2\x0012"
FILES = {
    "no_preamble": dataset_bytes(ct_dataset(STORED)),
    "other_vr": other_vr(implicit=False),
    "no_vr": dicom(STORED, RescaleSlope="1").replace(SLOPE, SLOPE[:4] + struct.pack("<I", 2) + b"1 "),
    "stray_delimiter": dicom(STORED, RescaleSlope="1").replace(SLOPE, SLOPE + struct.pack("<2HI", 0xFFFE, 0xE00D, 0)),
    "no_sop_class": dicom(STORED, SOPClassUID=""),
    "no_modality": dicom(STORED, Modality=None),
    "bad_charset": dicom(STORED, SpecificCharacterSet="ISO_IR 100").replace(b"ISO_IR 100", b"nonsense  "),
    "decimal_comma": dicom(STORED, RescaleIntercept="-1024.0").replace(b"-1024.0 ", b"-1024,0 "),
    "damaged_element": dicom(STORED).replace(INSTANCE, INSTANCE[:-2] + b"??"),
    "no_frames": dicom(STORED, NumberOfFrames=0),
    "compressed": jpeg_ls("1.2.840.10008.1.2.1"),
    "long_pixels": dicom(STORED, PixelData=STORED.tobytes() + bytes(2)),
    "trailing_bytes": dicom(STORED) + b"scanner log",
    "overlay_bits": dicom(STORED.view(np.uint16) | 0x8000, **TWELVE),
    "sign_extended": dicom((STORED - 1400) & 0x0FFF, RescaleIntercept=0, PixelRepresentation=1, **TWELVE),
    "no_rescale_type": dicom(STORED, RescaleType=None),
    "rescale_type_us": dicom(STORED, RescaleType="US"),
    "rescale_type_name": dicom(STORED, RescaleType="Hounsfield Units"),
    "odd_hu": dicom(STORED, RescaleIntercept=0),
    "turned": dicom(STORED, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]),
    "axial_assumed": dicom(STORED, ImageOrientationPatient=None),
    "projection": dicom(STORED, ImageType=["DERIVED", "SECONDARY", "MIP"]),
    "lossy": dicom(STORED, LossyImageCompression="01"),
    "long_uid": dicom(STORED, SeriesInstanceUID="1." + "2" * 66),
    "bad_uid": dicom(STORED, SOPInstanceUID="ID_000039fa0"),
    "burned_in": dicom(STORED, BurnedInAnnotation="YES"),
    "hu_1024": image("PNG", Image.fromarray(grey().astype(np.uint16) * 8)),
    "hu_32768": image("PNG", Image.fromarray(grey().astype(np.uint16) * 8 + 31744)),
}


def notes(data: bytes) -> tuple[str, ...]:
    (slice_,) = decode(data, DecodeLimits())
    return slice_.notes


@pytest.mark.parametrize("code", SLICE_NOTES)
def test_each_oddity_is_noted_by_its_own_code(code: str) -> None:
    assert notes(FILES[code]) == (code,)


@pytest.mark.parametrize(
    "data",
    [
        dicom(STORED),
        dicom(STORED, implicit=True),
        jpeg_ls(),
        dicom(np.zeros((3, 5), np.uint8), RescaleSlope=8, PixelData=b"\0\0\x80\x80\x80" * 3),
        dicom(STORED - 1400, RescaleIntercept=0, **TWELVE),
        dicom(STORED, NumberOfFrames=1),
        dicom(STORED, SpecificCharacterSet=["", "ISO 2022 IR 87"]),
        dicom(STORED, DataSetTrailingPadding=bytes(64)),
        image("PNG"),
    ],
    ids=["explicit", "implicit", "JPEG-LS", "odd size", "signed", "one frame", "charsets", "padding", "PNG"],
)
def test_file_as_it_should_be_has_no_notes(data: bytes) -> None:
    assert notes(data) == ()


@pytest.mark.parametrize(
    ("axes", "is_turned"),
    [
        ([1, 0, 0, 0, 1, 0], False),
        ([0.9, 0.436, 0, -0.436, 0.9, 0], False),  # turned by 26°
        ([1, 0, 0, 0, 0.866, -0.5], False),  # a gantry tilt of 30°
        ([-1, 0, 0, 0, 1, 0], True),
        ([1, 0, 0, 0, -1, 0], True),
        ([0, 1, 0, -1, 0, 0], True),
    ],
)
def test_slice_whose_rows_or_columns_run_elsewhere_is_noted_as_turned(axes: list[float], is_turned: bool) -> None:
    assert ("turned" in notes(dicom(STORED, ImageOrientationPatient=axes))) == is_turned


@pytest.mark.parametrize(
    ("name", "is_projection"),
    [
        ("MAX_IP", True),
        ("MIN_IP", True),
        ("MAXIMUM", True),
        ("CT_SOM5 MIP", True),  # of Siemens
        ("CSA MIP", True),
        ("CT_SOM5 MINIP", True),
        ("MPR", False),
        ("AVERAGE", False),
        ("CT_SOM5 SPI", False),
        ("MIP OFF", False),
        ("SKIMIP", False),
    ],
)
def test_projection_is_noted(name: str, is_projection: bool) -> None:
    assert notes(dicom(STORED, VolumeBasedCalculationTechnique=name)) == ("projection",) * is_projection
    assert notes(dicom(STORED, ImageType=["DERIVED", "PRIMARY", "AXIAL", name])) == ("projection",) * is_projection


CHEST = np.full((96, 128), -1000)
CHEST[16:80, 16:112] = 40
CHEST[30:66, 24:58] = CHEST[30:66, 70:104] = -820
CHEST += np.random.default_rng(2).integers(-60, 61, CHEST.shape)


@pytest.mark.parametrize(
    ("stored", "header"),
    [
        (CHEST, {}),
        (np.clip((CHEST + 1350) * 255 // 1500, 0, 255), {"RescaleIntercept": 0}),
        (CHEST + 1024, {"RescaleIntercept": 0}),
        (np.where(CHEST < -950, -2000, CHEST + 1024), {"RescaleIntercept": 0}),
    ],
    ids=["1024 subtracted twice", "grey levels", "1024 not subtracted", "1024 not subtracted, with padding"],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_slice_whose_values_are_not_hu_is_noted(stored: Any, header: dict[str, Any], photometric: str) -> None:
    states = {"PhotometricInterpretation": photometric}
    assert notes(dicom((CHEST + 1024).astype(np.int16), **states)) == ()
    assert notes(dicom(stored.astype(np.int16), **states | header)) == ("odd_hu",)


@pytest.mark.parametrize("offset", [1000, 1024])
def test_slice_of_a_wide_field_is_noted_if_its_intercept_was_lost(offset: int) -> None:
    wide = np.pad(np.where(CHEST < -500, -1000, 40), 32, constant_values=-1000)
    wide[32:44, 40:120] = -100
    wide += np.random.default_rng(4).normal(0, 15, wide.shape).astype(int)
    assert notes(dicom((wide + 1024).astype(np.int16))) == ()
    assert notes(dicom((wide + 1024 + offset).astype(np.int16))) == ("odd_hu",)


def body(muscle: float, fat: float) -> Any:
    """HU of a field without air, with these shares of muscle and fat. The rest is dense bone."""
    random = np.random.default_rng(3)
    means = random.choice([50, -90, 700], (96, 96), p=[muscle, fat, round(1 - muscle - fat, 9)])
    return means + random.integers(-25, 26, means.shape)


@pytest.mark.parametrize(
    ("hu", "is_odd"),
    [
        (body(0.85, 0.05), False),
        (body(0.62, 0.2), False),
        (body(0.85, 0.05) + 1000, True),
        (body(0.85, 0.05) + 1024, True),
        (body(0.9, 0.0), True),
        (body(0.5, 0.2), True),
        (np.where(body(0.9, 0.1) < 0, -3000, body(0.9, 0.1)), True),
    ],
    ids=["abdomen", "spine", "1000 added", "1024 added", "no fat", "mostly bone", "padding is not fat"],
)
def test_slice_of_a_small_field_without_air_is_noted_only_if_it_lacks_fat_or_is_dense(hu: Any, is_odd: bool) -> None:
    assert ("odd_hu" in notes(dicom((hu + 1024).astype(np.int16)))) == is_odd


@pytest.mark.parametrize("padding", [0.45, 0.55, 0.9, 1.0])
def test_padding_does_not_count_when_values_are_judged(padding: float) -> None:
    stored = np.full((200, 200), 63536, np.uint16)
    side = round(200 * (1 - padding) ** 0.5)
    chest = Image.fromarray((CHEST + 1024).astype(np.int32)).resize((side, side)) if side else []
    stored[:side, :side] = np.asarray(chest, np.uint16).reshape(side, side)
    assert notes(dicom(stored, PixelRepresentation=0, PixelPaddingValue=63536)) == ()
    if side:
        stored[:side, :side] += 1024
        assert notes(dicom(stored, PixelRepresentation=0, PixelPaddingValue=63536)) == ("odd_hu",)


def test_negative_hu_stored_as_unsigned_numbers_are_rejected() -> None:
    data = dicom(CHEST.astype(np.int16), PixelRepresentation=0, RescaleIntercept=0)
    with pytest.raises(SliceRejected, match="negative numbers stored as unsigned") as rejected:
        decode(data, DecodeLimits())
    assert rejected.value.code == "unsupported"


def test_notes_come_in_the_order_of_their_table() -> None:
    data = dicom(STORED, RescaleType=None, BurnedInAnnotation="YES", LossyImageCompression="01") + b"log"
    assert notes(data) == ("trailing_bytes", "no_rescale_type", "lossy", "burned_in")
