"""Notes what was odd about a DICOM slice that could still be read (`db.reasons.SLICE_NOTES`)."""

import re
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from worker.imaging.formats.dicom_file import DicomFile
from worker.imaging.formats.dicom_objects import axes_of, is_projection
from worker.imaging.formats.dicom_values import integer_of, is_damaged, raw_of, text_of
from worker.imaging.hounsfield import looks_odd

_UNSPECIFIED = "US"
_HU = ("HU", "HU_MOD")  # the names in the standard
_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, "1.2.840.10008.1.2.4.111")
_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_LONGEST_UID = 64
_UPRIGHT = 0.7  # rows must point at least this much to the left, and columns to the back; cosine of 45 degrees, rounded
_NUMBERS = {
    "rescale": ("RescaleSlope", "RescaleIntercept"),
    "position": ("ImagePositionPatient", "SliceLocation"),
    "orientation": ("ImageOrientationPatient",),
}


_OPTIONAL = ("InstanceNumber", "SeriesNumber", "AnatomicRegionSequence")  # the pixels do not depend on these


def file_notes(file: DicomFile, pixel_bytes: int) -> set[str]:
    """Return the notes that hold for all frames of a file. `pixel_bytes`: the size of the frames when uncompressed."""
    return set(file.notes) | set(_of_header(file, pixel_bytes))


def frame_notes(
    dataset: Dataset,
    groups: dict[str, Dataset],
    cells: NDArray[np.unsignedinteger[Any]],
    hu: NDArray[np.floating[Any]],
) -> Iterator[str]:
    """Yield the notes of one frame.

    `groups`: the data sets that state the frame's rescale, position, orientation and type. `cells`: the frame's stored
    values as unsigned numbers. `hu`: the HU of a sample of its pixels without padding.
    """
    for name, keywords in _NUMBERS.items():
        if any(b"," in (raw_of(groups[name], keyword) or b"") for keyword in keywords):
            yield "decimal_comma"
        if any(is_damaged(groups[name], keyword) for keyword in keywords):
            yield "damaged_element"
    kind = text_of(groups["rescale"], "RescaleType")
    if kind not in _HU:
        yield "no_rescale_type" if not kind else "rescale_type_us" if kind == _UNSPECIFIED else "rescale_type_name"
    if looks_odd(hu):
        yield "odd_hu"
    axes = axes_of(groups["orientation"])
    if not axes:
        yield "axial_assumed"
    elif axes[0] < _UPRIGHT or axes[4] < _UPRIGHT:
        yield "turned"
    if is_projection(dataset, groups["type"]):
        yield "projection"
    stored, allocated = integer_of(dataset, "BitsStored"), 8 * cells.dtype.itemsize
    if stored < allocated:
        yield from _of_unused_bits(cells, stored, signed=integer_of(dataset, "PixelRepresentation") == 1)


def in_order(codes: Collection[str], table: Collection[str]) -> tuple[str, ...]:
    """Return notes in the order in which `table` lists them."""
    return tuple(code for code in table if code in codes)


def _of_header(file: DicomFile, pixel_bytes: int) -> Iterator[str]:
    dataset = file.dataset
    if not text_of(dataset, "Modality"):
        yield "no_modality"
    if "NumberOfFrames" in dataset and not integer_of(dataset, "NumberOfFrames", 0):
        yield "no_frames"
    if any(is_damaged(dataset, keyword) for keyword in _OPTIONAL):
        yield "damaged_element"
    if file.pixels is not None and not file.is_encapsulated and len(file.pixels) > pixel_bytes + pixel_bytes % 2:
        yield "long_pixels"
    if text_of(dataset, "LossyImageCompression") == "01" or file.syntax in _LOSSY:
        yield "lossy"
    uids = [(raw_of(dataset, keyword) or b"").strip(b" \x00") for keyword in _UIDS]
    if any(len(uid) > _LONGEST_UID for uid in uids):
        yield "long_uid"
    if any(re.search(b"[^0-9.]", uid) for uid in uids):
        yield "bad_uid"
    if text_of(dataset, "BurnedInAnnotation").upper() == "YES":
        yield "burned_in"


def _of_unused_bits(cells: NDArray[np.unsignedinteger[Any]], stored: int, *, signed: bool) -> Iterator[str]:
    """Yield a note if the bits above the stored ones are not as expected: 0, or copies of the sign if `signed`."""
    highest = int(cells.max())
    if not signed:
        if highest >> stored:
            yield "overlay_bits"
        return
    numbers = cells.view(f"i{cells.dtype.itemsize}")
    half = 1 << (stored - 1)
    if int(numbers.min()) < -half or int(numbers.max()) >= half:
        yield "overlay_bits" if highest >> stored else "sign_extended"
