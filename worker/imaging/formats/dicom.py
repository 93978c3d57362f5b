"""Decodes a CT slice in DICOM: Hounsfield units, the lung window, and the series it belongs to."""

import hashlib
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from worker.imaging.display_names import display_name
from worker.imaging.formats.dicom_structure import EXPLICIT, IMPLICIT, PIXEL_DATA, Structure, read_structure
from worker.imaging.formats.pictures import check_pixels
from worker.imaging.recipe import PreparedSlice, SeriesInfo, fit, lung_window
from worker.imaging.rejections import SliceRejected

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_ENHANCED_CT = (_CT_IMAGE + ".1", _CT_IMAGE + ".2")
_MODALITY_LUT, _PADDING, _PADDING_LIMIT = 0x00283000, 0x00280120, 0x00280121
_MAX_VALUE = 64 * 1024
"""Bytes of a value read besides the pixels."""
_WANTED = (
    0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x0008103E, 0x00100020, 0x00100021, 0x0020000D,
    0x0020000E, 0x00200011, 0x00200013, 0x00200032, 0x00200037, 0x00201041, 0x00280002, 0x00280004, 0x00280008,
    0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280301, 0x00281052, 0x00281053,
    0x00281054,
)  # fmt: skip
"""The tags that are read of a slice. Of the patient (group 0010) only the ID and its issuer are read, for a digest."""


def decode_dicom(data: bytes | bytearray | memoryview, max_pixels: int) -> PreparedSlice:
    """Decode one CT Image Storage slice: single frame, Explicit or Implicit VR Little Endian, not compressed.

    Stored values of 8 or 16 bits, signed or not, are masked to BitsStored, rescaled to HU (PS3.3 C.11.1.1), windowed
    (`lung_window`) and, if MONOCHROME1, inverted. Pixel padding (PS3.3 C.7.5.1.1.2) then becomes 0. A slice without a
    rescale is rejected, since its HU cannot be known.

    Raises SliceRejected, by its code:
        malformed: the file cannot be parsed.
        not_ct: another object or modality, or a localiser.
        unsupported: enhanced, multi-frame, compressed or deflated CT, or values that are not HU.
        pixels: Rows × Columns are above the cap, or do not match PixelData.
    """
    view = memoryview(data)
    structure = read_structure(view)
    dataset = _dataset(view, structure)
    _check_is_ct(dataset)
    if structure.transfer_syntax not in (IMPLICIT, EXPLICIT):
        raise SliceRejected("unsupported", "Compressed DICOM is not read yet; send it uncompressed.")
    raw = _stored_values(view, structure, dataset, max_pixels)
    grey = Image.fromarray(np.take(_grey_of(view, structure, dataset, raw.dtype.itemsize * 8), raw))
    mode = _text(dataset, "PhotometricInterpretation")
    return PreparedSlice(fit(grey), 0, "DICOM", mode, grey.width, grey.height, _series(dataset))


@lru_cache(maxsize=16)
def _grey_table(
    allocated: int, stored: int, signed: bool, slope: float, intercept: float, inverted: bool, padding: range
) -> NDArray[np.uint8]:
    """Return the grey of each of the 2^allocated values of a pixel. It is computed once a series."""
    cells = np.arange(1 << allocated, dtype=np.int64)
    values = _as_number(cells & ((1 << stored) - 1), stored, signed)
    grey = lung_window(values * slope + intercept)
    if inverted:
        grey = 255 - grey
    for numbers in (values, _as_number(cells, allocated, signed)):  # padding may lie outside of the stored bits
        grey[(numbers >= padding.start) & (numbers < padding.stop)] = 0
    grey.setflags(write=False)
    return grey


def _as_number(cells: NDArray[np.int64], bits: int, signed: bool) -> NDArray[np.int64]:
    return cells - ((cells >> (bits - 1)) << bits) if signed else cells


def _dataset(view: memoryview, structure: Structure) -> Dataset:
    """Return the values of `_WANTED` as pydicom reads them."""
    raw = {}
    for number in _WANTED:
        element = structure.elements.get(number)
        if element is None or element.length is None:
            continue
        if element.length > _MAX_VALUE:
            raise SliceRejected("malformed", f"Element {Tag(number)} is {element.length} bytes long.")
        value = bytes(view[element.start : element.start + element.length])
        tag = Tag(number)
        raw[tag] = RawDataElement(
            tag, element.vr or None, element.length, value, element.start, structure.implicit, True
        )
    dataset = Dataset(raw)
    charset = dataset.get("SpecificCharacterSet") or "ISO_IR 6"
    dataset.set_original_encoding(structure.implicit, True, convert_encodings(charset))
    return dataset


def _check_is_ct(dataset: Dataset) -> None:
    sop_class, modality = _text(dataset, "SOPClassUID"), _text(dataset, "Modality")
    if not sop_class or not modality:
        raise SliceRejected("malformed", "The file does not state its SOP class and modality.")
    if modality != "CT" or (sop_class != _CT_IMAGE and sop_class not in _ENHANCED_CT):
        raise SliceRejected("not_ct", f"Modality {display_name(modality)[:16]}, object {display_name(sop_class)[:64]}.")
    if sop_class in _ENHANCED_CT or _integer(dataset, "NumberOfFrames", 1) != 1:
        raise SliceRejected("unsupported", "Enhanced and multi-frame CT are not read yet; send single slices.")
    if "LOCALIZER" in [str(part).upper() for part in _many(dataset, "ImageType")]:
        raise SliceRejected("not_ct", "A localiser, not a slice.")


def _stored_values(
    view: memoryview, structure: Structure, dataset: Dataset, max_pixels: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the pixels as the file has them: uint8 or uint16[rows, columns], unmasked, over the same memory."""
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if not rows or not columns:
        raise SliceRejected("malformed", "Rows or Columns are missing or 0.")
    check_pixels(columns, rows, max_pixels)
    if _integer(dataset, "SamplesPerPixel", 1) != 1:
        raise SliceRejected("unsupported", "Colour DICOM is not read.")
    allocated = _integer(dataset, "BitsAllocated")
    if allocated not in (8, 16):
        raise SliceRejected("unsupported", f"Pixels of {allocated} bits are not read.")
    element = structure.elements.get(PIXEL_DATA)
    expected = rows * columns * allocated // 8
    if element is None or element.length is None or element.length not in (expected, expected + expected % 2):
        there = element.length if element else 0
        raise SliceRejected("pixels", f"{rows} rows × {columns} columns need {expected} bytes; there are {there}.")
    cells = np.frombuffer(view, "<u2" if allocated == 16 else "u1", rows * columns, element.start)
    return cells.reshape(rows, columns)


def _grey_of(view: memoryview, structure: Structure, dataset: Dataset, allocated: int) -> NDArray[np.uint8]:
    """Return the grey table for this slice's header."""
    if _MODALITY_LUT in structure.elements or _text(dataset, "RescaleType") not in ("", "HU", "HU_MOD"):
        raise SliceRejected("unsupported", "The values are not in Hounsfield units.")
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    stored, representation = _integer(dataset, "BitsStored"), _integer(dataset, "PixelRepresentation")
    if slope is None or intercept is None or slope == 0:
        raise SliceRejected("malformed", "The slice has no rescale slope and intercept, so its HU are unknown.")
    if not 1 <= stored <= allocated or representation not in (0, 1):
        raise SliceRejected("malformed", f"{stored} bits stored of {allocated}, representation {representation}.")
    if _integer(dataset, "HighBit", stored - 1) != stored - 1:
        raise SliceRejected("unsupported", "Pixels that do not end at the lowest bit are not read.")
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise SliceRejected(
            "unsupported", f"Photometric interpretation {display_name(photometric)[:16]!r} is not read."
        )
    signed = representation == 1
    padding = _padding(view, structure, allocated, signed)
    return _grey_table(allocated, stored, signed, slope, intercept, photometric == "MONOCHROME1", padding)


def _padding(view: memoryview, structure: Structure, allocated: int, signed: bool) -> range:
    """Return the stored values that mean "no pixel", read by their bits, since files disagree on the VR (US or SS)."""
    ends = []
    for tag in (_PADDING, _PADDING_LIMIT):
        element = structure.elements.get(tag)
        if element and element.length and element.length >= 2:
            bits = int.from_bytes(view[element.start : element.start + 2], "little") & ((1 << allocated) - 1)
            ends.append(bits - (bits >> (allocated - 1) << allocated) if signed else bits)
        elif tag == _PADDING:
            return range(0)
    return range(min(ends), max(ends) + 1)


def _series(dataset: Dataset) -> SeriesInfo:
    """Return where the slice belongs, as far as the file states it."""
    return SeriesInfo(
        patient=_patient(dataset),
        study_uid=_label(dataset, "StudyInstanceUID"),
        series_uid=_label(dataset, "SeriesInstanceUID"),
        series_number=_integer_or_none(dataset, "SeriesNumber"),
        description=_label(dataset, "SeriesDescription"),
        instance_number=_integer_or_none(dataset, "InstanceNumber"),
        sop_uid=_label(dataset, "SOPInstanceUID"),
        position=_position(dataset),
        burned_in=_label(dataset, "BurnedInAnnotation").upper() == "YES",
    )


def _patient(dataset: Dataset) -> str:
    """Return a digest of the patient's ID, which is unique within its issuer (PS3.3 C.2.2), or ""."""
    patient = _text(dataset, "PatientID").strip()
    if not patient:
        return ""
    text = f"{patient}\0{_text(dataset, 'IssuerOfPatientID').strip()}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _position(dataset: Dataset) -> float | None:
    """Return mm along the normal of the slice: orientation's cross product with the position (PS3.3 C.7.6.2.1.1), else
    SliceLocation, else None."""
    try:
        orientation, corner = _many(dataset, "ImageOrientationPatient"), _many(dataset, "ImagePositionPatient")
        if len(orientation) == 6 and len(corner) == 3:
            axes = np.array(orientation, np.float64).reshape(2, 3)
            normal = np.cross(axes[0], axes[1])
            position = float(normal @ np.array(corner, np.float64))
            return position if normal.any() and math.isfinite(position) else None
        return _number(dataset, "SliceLocation")
    except (SliceRejected, TypeError, ValueError):
        return None


def _many(dataset: Dataset, keyword: str) -> list[object]:
    value = dataset.get(keyword)
    if value is None or isinstance(value, str) or not hasattr(value, "__iter__"):
        return [] if value in (None, "") else [value]
    return list(value)


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \x00")


def _label(dataset: Dataset, keyword: str) -> str:
    return display_name(_text(dataset, keyword))[:64]


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Return a finite number, or None if it is missing. Raises SliceRejected(`malformed`)."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise SliceRejected("malformed", f"{keyword} is not a number.")
    return number


def _integer(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    number = _number(dataset, keyword)
    if number is None and default is None:
        raise SliceRejected("malformed", f"{keyword} is missing.")
    return int(default if number is None else number)  # type: ignore[arg-type]


def _integer_or_none(dataset: Dataset, keyword: str) -> int | None:
    """Return a number that only sorts slices, or None if it does not fit 32 bits: the slice is not rejected for it."""
    try:
        number = _number(dataset, keyword)
    except (SliceRejected, ValueError):
        return None
    return int(number) if number is not None and abs(number) < 1 << 31 else None
