"""Decodes CT slices in DICOM: Hounsfield units, the lung window, and the series they belong to."""

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from worker.imaging.display_names import display_name
from worker.imaging.formats.dicom_file import DicomFile, read_dicom
from worker.imaging.formats.dicom_pixels import frames_of
from worker.imaging.formats.pictures import check_pixels
from worker.imaging.recipe import PreparedSlice, SeriesInfo, fit, lung_window
from worker.imaging.rejections import SliceRejected

_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_ENHANCED_CT = (_CT_IMAGE + ".1", _CT_IMAGE + ".2")
_STANDARD_OBJECT = "1.2.840.10008.5.1.4.1."
_HU = ("", "HU", "HU_MOD", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS", "HOUNDSFIELD UNIT", "HOUNDSFIELD UNITS")
_UNSPECIFIED = "US"
_CT_INTERCEPTS = (-1024.0, -1000.0)
_PRIVATE_RLE = (0x07A1, "PMSCT_RLE1")


def decode_dicom(data: bytes | bytearray | memoryview, max_pixels: int, max_frames: int) -> Iterator[PreparedSlice]:
    """Decode CT Image Storage, or Enhanced CT frame by frame, in any transfer syntax that CT is sent in.

    Stored values of 8 or 16 bits, signed or not, are masked to BitsStored, rescaled to HU (PS3.3 C.11.1.1), windowed
    (`lung_window`) and, if MONOCHROME1, inverted. Pixel padding (PS3.3 C.7.5.1.1.2) then becomes 0. A slice without a
    rescale is rejected, since its HU cannot be known. A rescale whose type is stated as unspecified counts as HU only
    with slope 1 and an intercept of -1024 or -1000, as CT scanners write them.

    Raises SliceRejected, by its code:
        malformed: the file cannot be parsed.
        not_ct: another object or modality, or a localiser.
        unsupported: a transfer syntax or pixels that are not read, or values that are not HU.
        pixels: Rows × Columns are above the cap, or PixelData holds fewer.
        pages: more than `max_frames` frames.
        too_large_unpacked: a deflated data set inflates to more than four bytes for each of `max_pixels`.
    """
    file = read_dicom(memoryview(data), 4 * max_pixels)
    dataset = file.dataset
    _check_is_ct(dataset)
    rows, columns, allocated = _check_layout(file, max_pixels)
    frames = _integer(dataset, "NumberOfFrames", 1) or 1
    if frames > max_frames:
        raise SliceRejected("pages", f"{frames} frames; {max_frames} are accepted.")
    places = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    mode = _text(dataset, "PhotometricInterpretation")
    for number, cells in enumerate(frames_of(file, frames, rows, columns, allocated)):
        groups = _groups(dataset, places[number] if number < len(places) else None)
        grey = Image.fromarray(np.take(_grey_of(dataset, groups, allocated), cells))
        yield PreparedSlice(fit(grey), number, "DICOM", mode, columns, rows, _series(dataset, groups))


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


def _check_is_ct(dataset: Dataset) -> None:
    sop_class, modality = _text(dataset, "SOPClassUID"), _text(dataset, "Modality")
    if not sop_class or not modality:
        raise SliceRejected("malformed", "The file does not state its SOP class and modality.")
    if modality != "CT" or (sop_class != _CT_IMAGE and sop_class not in _ENHANCED_CT):
        kind = "object" if sop_class.startswith(_STANDARD_OBJECT) else "unknown object"
        raise SliceRejected("not_ct", f"Modality {display_name(modality)[:16]}, {kind} {display_name(sop_class)[:64]}.")
    if "LOCALIZER" in [part.upper() for part in _texts(dataset, "ImageType")]:
        raise SliceRejected("not_ct", "A localiser, not a slice.")


def _check_layout(file: DicomFile, max_pixels: int) -> tuple[int, int, int]:
    """Return rows, columns and the bits of a cell."""
    dataset = file.dataset
    rows, columns = _integer(dataset, "Rows"), _integer(dataset, "Columns")
    if rows <= 0 or columns <= 0:
        raise SliceRejected("malformed", "Rows or Columns are missing or 0.")
    check_pixels(columns, rows, max_pixels)
    if _integer(dataset, "SamplesPerPixel", 1) != 1:
        raise SliceRejected("unsupported", "Colour DICOM is not read.")
    allocated = _integer(dataset, "BitsAllocated")
    if allocated not in (8, 16):
        raise SliceRejected("unsupported", f"Pixels of {allocated} bits are not read.")
    if file.pixels is None and any(_is_private_rle(element) for element in dataset):
        raise SliceRejected("unsupported", "Philips' private compression (PMSCT_RLE1); export it uncompressed.")
    return rows, columns, allocated


def _is_private_rle(element: DataElement) -> bool:
    return element.tag.group == _PRIVATE_RLE[0] and str(element.value).startswith(_PRIVATE_RLE[1])


def _groups(dataset: Dataset, frame: Dataset | None) -> dict[str, Dataset]:
    """Return where a frame's rescale, position and orientation are stated (PS3.3 C.7.6.16): of the frame itself, else
    of all frames, else at the top."""
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), None)

    def find(sequence: str) -> Dataset:
        for group in (frame, shared):
            for item in (group.get(sequence) if group is not None else None) or ():
                return item
        return dataset

    return {name: find(sequence) for name, sequence in _SEQUENCES.items()}


_SEQUENCES = {
    "rescale": "PixelValueTransformationSequence",
    "position": "PlanePositionSequence",
    "orientation": "PlaneOrientationSequence",
    "type": "CTImageFrameTypeSequence",
}


def _grey_of(dataset: Dataset, groups: dict[str, Dataset], allocated: int) -> NDArray[np.uint8]:
    """Return the grey table for a frame."""
    if "LOCALIZER" in [part.upper() for part in _texts(groups["type"], "FrameType")]:
        raise SliceRejected("not_ct", "A localiser, not a slice.")
    rescale = groups["rescale"]
    slope, intercept = _number(rescale, "RescaleSlope"), _number(rescale, "RescaleIntercept")
    if "ModalityLUTSequence" in dataset or not _is_hu(_text(rescale, "RescaleType"), slope, intercept):
        kind = display_name(_text(rescale, "RescaleType"))[:16]
        raise SliceRejected("unsupported", f"The values are not in Hounsfield units (rescale type {kind!r}).")
    stored, representation = _integer(dataset, "BitsStored"), _integer(dataset, "PixelRepresentation")
    if slope is None or intercept is None or slope == 0:
        raise SliceRejected("malformed", "The slice has no rescale slope and intercept, so its HU are unknown.")
    if not 1 <= stored <= allocated or representation not in (0, 1):
        raise SliceRejected("malformed", f"{stored} bits stored of {allocated}, representation {representation}.")
    if _integer(dataset, "HighBit", stored - 1) != stored - 1:
        raise SliceRejected("unsupported", "Pixels that do not end at the lowest bit are not read.")
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        name = display_name(photometric)[:16]
        raise SliceRejected("unsupported", f"Photometric interpretation {name!r} is not read.")
    signed = representation == 1
    padding = _padding(dataset, allocated, signed)
    return _grey_table(allocated, stored, signed, slope, intercept, photometric == "MONOCHROME1", padding)


def _is_hu(kind: str, slope: float | None, intercept: float | None) -> bool:
    kind = kind.upper()
    return kind in _HU or (kind == _UNSPECIFIED and slope == 1 and intercept in _CT_INTERCEPTS)


def _padding(dataset: Dataset, allocated: int, signed: bool) -> range:
    """Return the stored values that mean "no pixel", read by their bits, since files disagree on the VR (US or SS)."""
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        number = dataset.get(keyword)
        if isinstance(number, int):
            bits = number & ((1 << allocated) - 1)
            ends.append(bits - (bits >> (allocated - 1) << allocated) if signed else bits)
        elif not ends:
            return range(0)
    return range(min(ends), max(ends) + 1)


def _series(dataset: Dataset, groups: dict[str, Dataset]) -> SeriesInfo:
    """Return where the slice belongs, as far as the file states it."""
    return SeriesInfo(
        patient=_patient(dataset),
        study_uid=_label(dataset, "StudyInstanceUID"),
        series_uid=_label(dataset, "SeriesInstanceUID"),
        series_number=_integer_or_none(dataset, "SeriesNumber"),
        description=_label(dataset, "SeriesDescription"),
        instance_number=_integer_or_none(dataset, "InstanceNumber"),
        sop_uid=_label(dataset, "SOPInstanceUID"),
        position=_position(groups),
        burned_in=_label(dataset, "BurnedInAnnotation").upper() == "YES",
    )


def _patient(dataset: Dataset) -> str:
    """Return a digest of the patient's ID, which is unique within its issuer (PS3.3 C.2.2), or ""."""
    patient = _text(dataset, "PatientID").strip()
    if not patient:
        return ""
    text = f"{patient}\0{_text(dataset, 'IssuerOfPatientID').strip()}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _position(groups: dict[str, Dataset]) -> float | None:
    """Return mm along the normal of the slice: orientation's cross product with the position (PS3.3 C.7.6.2.1.1), else
    SliceLocation, else None."""
    try:
        orientation = _numbers(groups["orientation"], "ImageOrientationPatient")
        corner = _numbers(groups["position"], "ImagePositionPatient")
        if len(orientation) == 6 and len(corner) == 3:
            normal = np.cross(orientation[:3], orientation[3:])
            position = float(normal @ np.array(corner))
            return position if normal.any() and math.isfinite(position) else None
        return _number(groups["position"], "SliceLocation")
    except SliceRejected:
        return None


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword)
    if value is None or isinstance(value, str):
        return [value] if value else []
    return [str(part) for part in value]


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \x00")


def _label(dataset: Dataset, keyword: str) -> str:
    try:
        return display_name(_text(dataset, keyword))[:64]
    except (LookupError, ValueError):  # its character set is unknown; pixels do not depend on it
        return ""


def _numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Return the finite numbers of an element. Raises SliceRejected(`malformed`).

    Numbers in text may have a decimal comma, as some writers take it from the language of their system.
    """
    element = dataset.get_item(keyword)
    if element is None:
        return []
    parts: list[object]
    if isinstance(element.value, bytes) and (element.VR or dictionary_VR(element.tag)) in ("DS", "IS"):
        text = element.value.decode("ascii", "replace").replace(",", ".")
        parts = list(text.strip(" \x00").split("\\"))
    else:
        value = dataset.get(keyword)
        parts = [value] if isinstance(value, str | int | float) else list(value or ())
    try:
        numbers = [float(part) for part in parts if part != ""]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise SliceRejected("malformed", f"{keyword} is not a number.")
    return numbers


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Return a finite number, or None if it is missing. Raises SliceRejected(`malformed`)."""
    numbers = _numbers(dataset, keyword)
    if len(numbers) > 1:
        raise SliceRejected("malformed", f"{keyword} is not a number.")
    return numbers[0] if numbers else None


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
