"""Decodes CT slices in DICOM: to Hounsfield units, then to the lung window. Also reads the series of a slice."""

import hashlib
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import whitespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from db.reasons import DAMAGED, SET_APART, SLICE_NOTES
from worker.imaging.display_names import display_name
from worker.imaging.formats.dicom_file import DicomFile, read_dicom
from worker.imaging.formats.dicom_notes import file_notes, frame_notes, in_order
from worker.imaging.formats.dicom_objects import HU_NAMES, axes_of, check_object, check_place, check_values
from worker.imaging.formats.dicom_pixels import Cells, frames_of
from worker.imaging.formats.dicom_values import (
    integer_of,
    integer_or_none,
    items_of,
    label_of,
    number_of,
    numbers_of,
    text_of,
    uid_of,
    value_of,
)
from worker.imaging.formats.pictures import check_pixels
from worker.imaging.hounsfield import STEP, check_wrapped
from worker.imaging.recipe import PreparedSlice, SeriesInfo, fit, lung_window
from worker.imaging.rejections import SliceRejected, unreadable

_UNSPECIFIED = "US"
_CT_INTERCEPTS = (-1024.0, -1000.0, -8192.0)
POSITION_DIGITS = 4  # decimal places, so that slices at the same place get the same position
_NO_TABLE = 32  # bits of a pixel, too many for a table of all values
_PADDING_BITS = 16
_LOSSY_SLACK = {8: 1, 16: 8, 32: 8}  # how far lossy coding may move a padding value, by the bits of a pixel
_PRIVATE_RLE = (0x07A1, "PMSCT_RLE1")


def decode_dicom(
    data: bytes | bytearray | memoryview, max_pixels: int, max_frames: int, rules: Collection[str] = SET_APART
) -> Iterator[PreparedSlice]:
    """Decode CT Image Storage, or Enhanced CT frame by frame, in any transfer syntax that is used for CT.

    Stored values of 8, 16 or 32 bits, signed or not, are masked to BitsStored, rescaled to HU (PS3.3 C.11.1.1),
    windowed (`lung_window`) and, for MONOCHROME1, inverted. Pixel padding (PS3.3 C.7.5.1.1.2) then becomes 0. A slice
    without a rescale is rejected, because its HU are not known. If the type of the rescale is stated as unspecified,
    the values count as HU only with slope 1 and an intercept of -1024, -1000 or -8192, which are those of CT scanners.

    Raises SliceRejected. If only the pixels are damaged, the error states the series. The codes are:
        malformed: the file cannot be parsed.
        not_ct: another object or modality.
        localizer, not_axial, capture, not_chest, bolus_tracking: not an axial chest slice, by one of `rules`
            (`dicom_objects`). If any frame is not one, the whole file is rejected.
        unsupported: a transfer syntax or pixels that cannot be read, or values that are not HU.
        pixels: Rows × Columns are above the limit, or PixelData has too few pixels.
        pages: more than `max_frames` frames.
        too_large_unpacked: a deflated data set inflates to more than four bytes for each pixel of `max_pixels`.
    """
    file = read_dicom(memoryview(data), 4 * max_pixels)
    dataset = file.dataset
    check_object(dataset, rules)
    places = list(items_of(dataset, "PerFrameFunctionalGroupsSequence"))
    try:
        yield from _slices(file, places, max_pixels, max_frames, rules)
    except MemoryError:
        raise
    except Exception as error:
        raise _in_series(error, dataset, places[0] if places else None, rules) from error


def _slices(
    file: DicomFile, places: Sequence[Dataset], max_pixels: int, max_frames: int, rules: Collection[str]
) -> Iterator[PreparedSlice]:
    """Yield the frames of a CT. `places`: the data sets that state the place of each frame."""
    dataset = file.dataset
    rows, columns, allocated = _check_layout(file, max_pixels)
    frames = integer_of(dataset, "NumberOfFrames", 1) or 1
    if frames < 1:
        raise SliceRejected("malformed", f"NumberOfFrames is {frames}.")
    if frames > max_frames:
        raise SliceRejected("pages", f"{frames} frames; {max_frames} are accepted.")
    mode = text_of(dataset, "PhotometricInterpretation")
    notes = file_notes(file, frames * rows * columns * allocated // 8)
    for index, cells in enumerate(frames_of(file, frames, rows, columns, allocated)):
        place = places[index] if index < len(places) else None
        groups = _groups(dataset, place)
        check_place(dataset, groups["type"], groups["orientation"], rules)
        check_values(dataset, groups["type"], _items(dataset, place, "RealWorldValueMappingSequence"))
        meaning = _meaning(dataset, groups, allocated, is_lossy="lossy" in notes)
        hu = meaning.sample(cells[::STEP, ::STEP].astype(np.int64))
        check_wrapped(hu)
        grey = Image.fromarray(_grey_of(cells, meaning))
        odd = in_order(notes.union(frame_notes(dataset, groups, cells, hu)), SLICE_NOTES)
        yield PreparedSlice(fit(grey), index, "DICOM", mode, columns, rows, _series(dataset, groups), odd)


def _in_series(error: Exception, dataset: Dataset, frame: Dataset | None, rules: Collection[str]) -> SliceRejected:
    """Return the rejection of a CT with damaged pixels, with its series.

    If a rule of `dicom_objects` sets the CT apart, return that rejection.
    """
    rejection = error if isinstance(error, SliceRejected) else unreadable("DICOM", error)
    if rejection.code not in DAMAGED:
        return rejection
    try:
        groups = _groups(dataset, frame)
        check_place(dataset, groups["type"], groups["orientation"], rules)
        return SliceRejected(rejection.code, rejection.detail, _series(dataset, groups))
    except SliceRejected as other:
        return other if other.code in SET_APART else rejection
    except Exception:  # the header is damaged too
        return rejection


@dataclass(frozen=True)
class _Meaning:
    """What the stored values of a frame mean. `bits`: bits of a pixel. `stored`: how many of them hold the value."""

    bits: int
    stored: int
    is_signed: bool
    slope: float
    intercept: float
    is_inverted: bool
    padding: range

    def hu(self, cells: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Return the HU of cells, which are read as unsigned numbers."""
        return self._values(cells) * self.slope + self.intercept

    def grey(self, cells: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the grey levels of cells, which are read as unsigned numbers."""
        grey = lung_window(self.hu(cells))
        if self.is_inverted:
            grey = 255 - grey
        grey[self._is_padding(cells)] = 0
        return grey

    def sample(self, cells: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Return the HU of cells that are not padding, float[n]. The cells are read as unsigned numbers."""
        return self.hu(cells[~self._is_padding(cells)])

    def _is_padding(self, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        low, high = self.padding.start, self.padding.stop
        # a padding value may use more bits than the stored ones
        both = (self._values(cells), self._numbers(cells, self.bits))
        return np.logical_or(*((numbers >= low) & (numbers < high) for numbers in both))

    def _values(self, cells: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._numbers(cells & ((1 << self.stored) - 1), self.stored)

    def _numbers(self, cells: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
        return cells - ((cells >> (bits - 1)) << bits) if self.is_signed else cells


@lru_cache(maxsize=16)
def _grey_table(meaning: _Meaning) -> NDArray[np.uint8]:
    """Return the grey level for each value that a pixel of 8 or 16 bits can have. Results are cached."""
    table = meaning.grey(np.arange(1 << meaning.bits, dtype=np.int64))
    table.setflags(write=False)
    return table


def _check_layout(file: DicomFile, max_pixels: int) -> tuple[int, int, int]:
    """Return rows, columns and BitsAllocated. Raise SliceRejected if such pixels cannot be read."""
    dataset = file.dataset
    if file.is_cut:
        raise SliceRejected("malformed", "The pixels are longer than the file.")
    rows, columns = integer_of(dataset, "Rows"), integer_of(dataset, "Columns")
    if rows <= 0 or columns <= 0:
        raise SliceRejected("malformed", "Rows or Columns are missing or 0.")
    check_pixels(columns, rows, max_pixels)
    if integer_of(dataset, "SamplesPerPixel", 1) != 1:
        raise SliceRejected("unsupported", "Colour DICOM is not read.")
    allocated = integer_of(dataset, "BitsAllocated")
    if allocated not in (8, 16, 32):
        raise SliceRejected("unsupported", f"Pixels of {allocated} bits are not read.")
    if file.pixels is None and any(_is_private_rle(element) for element in dataset):
        raise SliceRejected("unsupported", "Philips' private compression (PMSCT_RLE1); export it uncompressed.")
    return rows, columns, allocated


def _is_private_rle(element: DataElement) -> bool:
    return element.tag.group == _PRIVATE_RLE[0] and str(element.value).startswith(_PRIVATE_RLE[1])


def _groups(dataset: Dataset, frame: Dataset | None) -> dict[str, Dataset]:
    """Return the data sets that state a frame's rescale, position and orientation (PS3.3 C.7.6.16).

    A value is stated for the frame, or else for all frames in common, or else in the data set itself.
    """
    return {name: next(iter(_items(dataset, frame, sequence)), dataset) for name, sequence in _SEQUENCES.items()}


def _items(dataset: Dataset, frame: Dataset | None, sequence: str) -> Sequence[Dataset]:
    """Return the items of a sequence that is stated for the frame, for all frames in common, or in the data set."""
    shared = next(iter(items_of(dataset, "SharedFunctionalGroupsSequence")), None)
    groups = (group for group in (frame, shared, dataset) if group is not None)
    return next((items for group in groups if (items := items_of(group, sequence))), ())


_SEQUENCES = {
    "rescale": "PixelValueTransformationSequence",
    "position": "PlanePositionSequence",
    "orientation": "PlaneOrientationSequence",
    "type": "CTImageFrameTypeSequence",
}


def _grey_of(cells: Cells, meaning: _Meaning) -> NDArray[np.uint8]:
    """Return the grey levels of a frame."""
    return meaning.grey(cells.astype(np.int64)) if meaning.bits == _NO_TABLE else np.take(_grey_table(meaning), cells)


def _meaning(dataset: Dataset, groups: dict[str, Dataset], allocated: int, *, is_lossy: bool) -> _Meaning:
    rescale = groups["rescale"]
    slope, intercept = number_of(rescale, "RescaleSlope"), number_of(rescale, "RescaleIntercept")
    if value_of(dataset, "ModalityLUTSequence"):
        raise SliceRejected("unsupported", "A Modality LUT is not read; export the slice with a rescale slope instead.")
    if not _is_hu(text_of(rescale, "RescaleType"), slope, intercept):
        kind = display_name(text_of(rescale, "RescaleType"))[:16]
        raise SliceRejected("unsupported", f"The values are not in Hounsfield units (rescale type {kind!r}).")
    stored, representation = integer_of(dataset, "BitsStored"), integer_of(dataset, "PixelRepresentation")
    if slope is None or intercept is None or slope == 0:
        raise SliceRejected("malformed", "The slice has no rescale slope and intercept, so its HU are unknown.")
    if not 1 <= stored <= allocated or representation not in (0, 1):
        raise SliceRejected("malformed", f"{stored} bits stored of {allocated}, representation {representation}.")
    if integer_of(dataset, "HighBit", stored - 1) != stored - 1:
        raise SliceRejected("unsupported", "Pixels that do not end at the lowest bit are not read.")
    photometric = text_of(dataset, "PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        name = display_name(photometric)[:16]
        raise SliceRejected("unsupported", f"Photometric interpretation {name!r} is not read.")
    signed = representation == 1
    padding = _padding(dataset, allocated, signed, is_lossy=is_lossy)
    return _Meaning(allocated, stored, signed, slope, intercept, photometric == "MONOCHROME1", padding)


def _is_hu(kind: str, slope: float | None, intercept: float | None) -> bool:
    kind = kind.upper()
    return kind in ("", *HU_NAMES) or (kind == _UNSPECIFIED and slope == 1 and intercept in _CT_INTERCEPTS)


def _padding(dataset: Dataset, allocated: int, signed: bool, *, is_lossy: bool) -> range:
    """Return the stored values that mean "no pixel". Read them as bits, because files disagree on the VR (US or SS).

    Both VRs have 16 bits, even if a pixel has 32. After lossy coding, values near a padding value also mean "no pixel",
    because lossy coding changes most padding a little.
    """
    ends, width = [], min(allocated, _PADDING_BITS)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        number = value_of(dataset, keyword)
        if isinstance(number, int):
            bits = number & ((1 << width) - 1)
            ends.append(bits - (bits >> (width - 1) << width) if signed else bits)
        elif not ends:
            return range(0)
    slack = _LOSSY_SLACK[allocated] if is_lossy else 0
    return range(min(ends) - slack, max(ends) + 1 + slack)


def _series(dataset: Dataset, groups: dict[str, Dataset]) -> SeriesInfo:
    """Return the series of the slice, with all that the file states about it.

    A file of several frames may state one position in the data set itself. That is not the position of every frame.
    """
    axes, place, frames = axes_of(groups["orientation"]), groups["position"], integer_or_none(dataset, "NumberOfFrames")
    has_place = place is not dataset or (frames or 1) <= 1
    patient = _stated(dataset, "PatientID")  # unique within its issuer (PS3.3 C.2.2)
    return SeriesInfo(
        patient=_digest(patient),
        issuer=_digest(patient, _stated(dataset, "IssuerOfPatientID")),
        birth_date=_digest(patient, _stated(dataset, "PatientBirthDate", "[0-9]{8}")),
        sex=_digest(patient, _stated(dataset, "PatientSex", "[MF]")),
        study_uid=uid_of(dataset, "StudyInstanceUID"),
        series_uid=uid_of(dataset, "SeriesInstanceUID"),
        series_number=integer_or_none(dataset, "SeriesNumber"),
        description=label_of(dataset, "SeriesDescription"),
        instance_number=integer_or_none(dataset, "InstanceNumber"),
        sop_uid=uid_of(dataset, "SOPInstanceUID"),
        position=_position(place, axes) if has_place else None,
        location=_location(place) if has_place else None,
        orientation="\\".join(f"{axis:.6g}" for axis in axes),
        burned_in=label_of(dataset, "BurnedInAnnotation").upper() == "YES",
        frames=frames,
    )


def _stated(dataset: Dataset, keyword: str, form: str = r".*\S.*") -> str:
    """Return a text, or "" if it does not match the regular expression `form`.

    Strip only ASCII spaces. In a wrong character set, a letter that distinguishes two patients may look like a space.
    """
    text = text_of(dataset, keyword).strip(whitespace)
    return text if re.fullmatch(form, text, re.DOTALL) else ""


def _digest(*texts: str) -> str:
    """Return a digest of these texts, or "" if one of them is empty."""
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=16).hexdigest() if all(texts) else ""


def _position(place: Dataset, axes: list[float]) -> float | None:
    """Return the position in mm along the slice's normal, towards the head (PS3.3 C.7.6.2.1.1), or None.

    The normal is the cross product of the axes. In some files the normal points to the feet, for example if columns run
    upwards. The normal is then reversed. If the axes are not stated, the slice counts as axial.
    """
    try:
        corner = numbers_of(place, "ImagePositionPatient")
    except SliceRejected:
        return None
    if len(corner) != 3:
        return None
    normal = np.cross(axes[:3], axes[3:]) if axes else np.array([0.0, 0.0, 1.0])
    position = float(normal @ np.array(corner) / np.linalg.norm(normal) * (-1 if normal[2] < 0 else 1))
    return round(position, POSITION_DIGITS) if math.isfinite(position) else None


def _location(place: Dataset) -> float | None:
    """Return SliceLocation in mm, or None. Its zero and its direction are not defined (PS3.3 C.7.6.2.1.2)."""
    try:
        return number_of(place, "SliceLocation")
    except SliceRejected:
        return None
