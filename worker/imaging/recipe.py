"""The recipe, which prepares every picture for the model, in training and in use."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from db.timing.stages import Stage, timed

RECIPE = "lung-224-v1"
"""PNG, JPEG, TIFF, BMP: alpha dropped, luminance; DICOM: lung window; then `fit`. A changed recipe needs a new name."""

WINDOW_CENTRE, WINDOW_WIDTH = -600.0, 1500.0  # the lung window in HU
SIDE = 224
PIXEL_BYTES = SIDE * SIDE


@dataclass(frozen=True)
class SeriesInfo:
    """The series that a DICOM slice belongs to, without the patient's name or number.

    Texts are display names of at most 64 characters, or empty. UIDs may have 128 characters. `patient`: a digest of the
    patient's ID. `issuer`: a digest of the ID and its issuer, or "" if no issuer is stated. `birth_date`, `sex`:
    digests of the ID with the patient's birth date and with the sex, or "". The digests distinguish patients. They are
    never stored, because short values can be guessed from digests. `position`: in mm along the slice's normal, towards
    the head, or None if the file does not state it. Positions are comparable within a series. `location`: SliceLocation
    in mm, or None. `orientation`: the direction cosines of rows and columns, six numbers in DICOM's form, or "".
    `burned_in`: the file states that text is burned into its pixels. `frames`: how many frames the file states, or None
    if it states no number.
    """

    patient: str
    study_uid: str
    series_uid: str
    series_number: int | None
    description: str
    instance_number: int | None
    sop_uid: str
    position: float | None
    orientation: str = ""
    burned_in: bool = False
    issuer: str = ""
    birth_date: str = ""
    sex: str = ""
    frames: int | None = None
    location: float | None = None


@dataclass(frozen=True, eq=False)
class PreparedSlice:
    """A slice in the form that the model takes.

    `pixels`: uint8[224, 224], read-only. `frame`: the page of the file, from 0. `format`: PNG, JPEG, TIFF, BMP, DICOM
    or NIfTI. `mode`: Pillow's mode, DICOM's photometric interpretation, or NumPy's type. `width`, `height`: of the
    original, in pixels. `notes`: codes of `db.reasons.SLICE_NOTES`, in the order of that table.
    """

    pixels: NDArray[np.uint8]
    frame: int
    format: str
    mode: str
    width: int
    height: int
    series: SeriesInfo | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256_pixels(self) -> str:
        """Return the SHA-256 of the 50,176 pixel bytes, in hex.

        The process that reads this property computes it, so a decoder cannot forge it.
        """
        return hashlib.sha256(self.pixels.data).hexdigest()


def lung_window(hu: NDArray[np.number[Any]]) -> NDArray[np.uint8]:
    """Map HU of any shape to uint8 by the linear function of DICOM PS3.3 C.11.2.1.2.1.

    -1350 HU and less become 0, more than 149 HU become 255. Halves are rounded upwards.
    """
    grey = ((hu - (WINDOW_CENTRE - 0.5)) / (WINDOW_WIDTH - 1) + 0.5) * 255
    rounded: NDArray[np.uint8] = np.floor(np.clip(grey, 0, 255) + 0.5).astype(np.uint8)
    return rounded


def fit(grey: Image.Image) -> NDArray[np.uint8]:
    """Scale a picture in mode L of any size to uint8[224, 224], read-only.

    Each side is scaled separately, bilinear and antialiased (Pillow widens the triangle filter when it shrinks).
    """
    with timed(Stage.RESIZE):
        return as_pixels(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes())


def as_pixels(raw: bytes | memoryview) -> NDArray[np.uint8]:
    """Return 50,176 bytes, row by row, as uint8[224, 224]. The array uses the same memory."""
    return np.frombuffer(raw, np.uint8).reshape(SIDE, SIDE)
