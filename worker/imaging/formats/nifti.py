"""Decodes CT volumes in NIfTI-1 and NIfTI-2 (nifti1.h, nifti2.h) to axial slices, from the feet to the head.

nibabel could read the header. It is not used, because a confined decoder would import it at every start, which takes
0.4 s. nibabel would replace only the affine and the scaling, a small part of the work. Tests compare our results with
those of nibabel.
"""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from db.reasons import SET_APART
from worker.imaging.formats.dicom_objects import MIN_AXIAL
from worker.imaging.formats.pictures import check_pixels
from worker.imaging.hounsfield import HIGHEST_TISSUE, HU_RANGE, LOWEST_AIR, STEP, looks_odd
from worker.imaging.recipe import PreparedSlice, SeriesInfo, fit, lung_window
from worker.imaging.rejections import SliceRejected

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_PAIR = b"ni1\0"
_MAGIC_2 = b"n+2\0\r\n\x1a\n"
_LONGER_HEADER = 540
# least volume of a voxel, as a share of its volume with right angles; below this, the axes are in one plane
_LEAST_SPAN = 1e-6
_EXTENSION_FLAGS = 4  # bytes after the header
_FIELDS_1: dict[str, tuple[int, str]] = {
    "dim": (40, "8i2"),
    "datatype": (70, "i2"),
    "pixdim": (76, "8f4"),
    "vox_offset": (108, "f4"),
    "scl": (112, "2f4"),
    "units": (123, "u1"),
    "codes": (252, "2i2"),
    "quatern": (256, "6f4"),
    "srow": (280, "(3,4)f4"),
}
_FIELDS_2: dict[str, tuple[int, str]] = {
    "dim": (16, "8i8"),
    "datatype": (12, "i2"),
    "pixdim": (104, "8f8"),
    "vox_offset": (168, "i8"),
    "scl": (176, "2f8"),
    "codes": (344, "2i4"),
    "quatern": (352, "6f8"),
    "srow": (400, "(3,4)f8"),
    "units": (500, "i4"),
}
_UNITS = {1: 1000.0, 3: 0.001}  # mm in a metre and in a micrometre, by the lowest three bits of xyzt_units


def decode_nifti(
    data: bytes | bytearray | memoryview, max_pixels: int, max_slices: int, rules: Collection[str] = SET_APART
) -> Iterator[PreparedSlice]:
    """Decode a volume. Yield each axial slice in the lung window, with the patient's right on the left, as in DICOM.

    Stored numbers are scaled by scl_slope and scl_inter. A slope that is 0 or not a number means no scaling
    (nifti1.h, "data scaling"). Voxels that are not numbers become black.

    Raises SliceRejected with one of these codes:
        no_orientation: qform_code and sform_code are 0, or the axes do not span a space.
        volumes: there are several volumes in the file.
        not_hu: the values are not HU: the lowest is above `LOWEST_AIR`, the highest below `HIGHEST_TISSUE`, or some are
            outside `HU_RANGE`.
        not_axial: no plane of the volume is axial. Raised only if `rules` has this code.
        unsupported: colours, complex numbers, or a header whose voxels are in a second file.
        truncated, malformed, pixels, pages.
    """
    volume = _read(memoryview(data))
    view = _Axial.of(volume, rules)
    rows, columns, count = view.voxels.shape
    check_pixels(columns, rows, max_pixels)
    if count > max_slices:
        raise SliceRejected("pages", f"{count} slices; {max_slices} are accepted.")
    _check_hu(volume)
    window = _Window(volume)
    for index in range(count):
        stored = view.voxels[..., index]
        notes = ("odd_hu",) if looks_odd(volume.hu(stored[::STEP, ::STEP])) else ()
        grey = fit(Image.fromarray(window.grey(stored)))
        yield PreparedSlice(grey, index, "NIfTI", volume.mode, columns, rows, view.place(index), notes)


@dataclass(frozen=True)
class _Volume:
    """A volume as stored. `voxels`: by i, j, k. `affine`: float64[3, 4] from i, j, k to mm right, front and up."""

    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float
    inter: float

    @property
    def mode(self) -> str:
        return self.voxels.dtype.name

    def hu(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scaled values of stored numbers of any shape."""
        return stored.astype(np.float64) * self.slope + self.inter


@dataclass(frozen=True)
class _Axial:
    """A volume as axial slices. `voxels`: by row, column, slice. `corner`, `step`: mm to the left, back and head."""

    voxels: NDArray[Any]
    corner: NDArray[np.float64]
    step: NDArray[np.float64]
    normal: NDArray[np.float64]
    orientation: str

    @classmethod
    def of(cls, volume: _Volume, rules: Collection[str]) -> "_Axial":
        """Turn the volume so that its slices are axial, in the orientation in which DICOM shows them.

        Raises SliceRejected(`not_axial`).
        """
        lps = volume.affine * np.array([[-1.0], [-1.0], [1.0]])
        axes = lps[:, :3] / np.linalg.norm(lps[:, :3], axis=0)
        normals = np.cross(axes.T[[1, 2, 0]], axes.T[[2, 0, 1]])  # normals of the planes across i, j and k
        share = np.abs(normals[:, 2]) / np.linalg.norm(normals, axis=1)
        across = int(np.argmax(share))
        if "not_axial" in rules and share[across] < MIN_AXIAL:
            raise SliceRejected("not_axial", "No plane of the volume is axial.")
        first, second = (axis for axis in range(3) if axis != across)
        column, row = (first, second) if abs(axes[0, first]) >= abs(axes[0, second]) else (second, first)
        order = (row, column, across)  # rows are counted to the back, columns to the left
        flips = [axes[1, row] < 0, axes[0, column] < 0, axes[2, across] < 0]
        voxels = volume.voxels.transpose(order)[tuple(slice(None, None, -1 if flip else None) for flip in flips)]
        steps = {axis: lps[:, axis] * (-1 if flip else 1) for axis, flip in zip(order, flips, strict=True)}
        corner = lps[:, 3].copy()
        for axis, flip in zip(order, flips, strict=True):
            corner += lps[:, axis] * (volume.voxels.shape[axis] - 1) if flip else 0
        cosines = [steps[axis] / np.linalg.norm(steps[axis]) for axis in (column, row)]
        normal = np.cross(*cosines)
        normal *= (-1 if normal[2] < 0 else 1) / np.linalg.norm(normal)
        written = "\\".join(f"{number:.6g}" for number in np.concatenate(cosines) + 0.0)  # no minus zero
        return cls(voxels, corner, steps[across], normal, written)

    def place(self, index: int) -> SeriesInfo:
        """Return the place of a slice. The file is one series, and does not name a patient."""
        position = round(float(self.normal @ (self.corner + index * self.step)), 4)
        return SeriesInfo("", "", "", None, "", index + 1, "", position, self.orientation)


class _Window:
    """Maps stored numbers to grey levels. Uses a table for integers of 8 and 16 bits."""

    def __init__(self, volume: _Volume) -> None:
        self._hu = volume.hu
        self._table: NDArray[np.uint8] | None = None
        size = volume.voxels.dtype.itemsize
        if volume.voxels.dtype.kind in "iu" and size <= 2:
            stored = np.arange(1 << 8 * size).astype(f"u{size}").view(volume.voxels.dtype.newbyteorder("="))
            self._table = self._greys(stored)

    def grey(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the grey levels of a slice, uint8."""
        if self._table is None:
            return self._greys(stored)
        cells = np.ascontiguousarray(stored, stored.dtype.newbyteorder("="))
        return np.take(self._table, cells.view(f"u{cells.dtype.itemsize}"))

    def _greys(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        return lung_window(np.nan_to_num(self._hu(stored), nan=HU_RANGE[0]))


def _check_hu(volume: _Volume) -> None:
    voxels = volume.voxels
    low, high = (float(edge(voxels)) for edge in (np.nanmin, np.nanmax))
    low, high = sorted((low * volume.slope + volume.inter, high * volume.slope + volume.inter))
    if not (HU_RANGE[0] <= low <= LOWEST_AIR and HIGHEST_TISSUE <= high <= HU_RANGE[1]):
        raise SliceRejected("not_hu", f"The values run from {low:g} to {high:g}.")


def _read(data: memoryview) -> _Volume:
    head = bytes(data[:_LONGER_HEADER])
    if head[344:348] == _PAIR:
        raise SliceRejected("unsupported", "A NIfTI header alone, whose voxels are in another file; send one .nii.")
    header = _header(head)
    number = int(header["datatype"])
    kind = _TYPES.get(number)
    if kind is None:
        raise SliceRejected("unsupported", f"Voxels of NIfTI type {number} are not read.")
    shape = _shape(header["dim"])
    dtype = np.dtype(kind).newbyteorder(header.dtype["datatype"].byteorder)
    offset = float(header["vox_offset"])
    first = header.dtype.itemsize + _EXTENSION_FLAGS
    start = int(offset) if math.isfinite(offset) and offset else first
    if start < first:
        raise SliceRejected("malformed", f"The voxels start at byte {start}, within the header.")
    count = math.prod(shape)
    if start + count * dtype.itemsize > len(data):
        raise SliceRejected("truncated", "The volume ends before its voxels.")
    voxels = np.frombuffer(data, dtype, count, start).reshape(shape, order="F")
    return _Volume(voxels, _affine(header), *_scaling(header))


def _header(head: bytes) -> Any:
    """Return the fields that are needed. The byte order is the one in which the header's size is valid."""
    is_second = head[4:12] == _MAGIC_2
    fields, size = (_FIELDS_2, 540) if is_second else (_FIELDS_1, 348)
    order = "<" if int.from_bytes(head[:4], "little") == size else ">"
    offsets, formats = zip(*fields.values(), strict=True)
    types = [np.dtype(format_).newbyteorder(order) for format_ in formats]
    layout = np.dtype({"names": list(fields), "formats": types, "offsets": list(offsets), "itemsize": size})
    if len(head) < size:
        raise SliceRejected("truncated", "The NIfTI ends within its header.")
    return np.frombuffer(head, layout, 1)[0]


def _shape(dim: NDArray[Any]) -> tuple[int, int, int]:
    """Return the voxels along i, j and k. Raises SliceRejected: `malformed`, `volumes`."""
    number = int(dim[0])
    sides = [int(side) for side in dim[1 : number + 1]]
    if not 2 <= number <= 7 or any(side < 1 for side in sides):
        raise SliceRejected("malformed", "The volume states no size.")
    if math.prod(sides[3:]) != 1:
        raise SliceRejected("volumes", f"There are {math.prod(sides[3:])} volumes in the file.")
    return sides[0], sides[1], sides[2] if number > 2 else 1


def _scaling(header: Any) -> tuple[float, float]:
    slope, inter = (float(number) for number in header["scl"])
    if slope == 0 or not math.isfinite(slope):
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise SliceRejected("malformed", "The intercept of the scaling is not a number.")
    return slope, inter


def _affine(header: Any) -> NDArray[np.float64]:
    """Return the affine float64[3, 4] in mm: sform, or else qform. Raises SliceRejected(`no_orientation`).

    A file without a unit is taken to be in mm.
    """
    qform, sform = (int(code) for code in header["codes"])
    if sform <= 0 and qform <= 0:
        raise SliceRejected("no_orientation", "Its qform and sform codes are 0.")
    affine = header["srow"].astype(np.float64) if sform > 0 else _of_quaternion(header)
    volume = float(np.prod(np.linalg.norm(affine[:, :3], axis=0)))
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:, :3])) > _LEAST_SPAN * volume > 0:
        raise SliceRejected("no_orientation", "Its axes do not span a space.")
    return affine * _UNITS.get(int(header["units"]) & 7, 1.0)


def _of_quaternion(header: Any) -> NDArray[np.float64]:
    """Return the affine by method 2 of nifti1.h, from a quaternion."""
    b, c, d, *offset = (float(number) for number in header["quatern"])
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    sizes = np.array(header["pixdim"][1:4], np.float64)
    sizes[2] *= -1 if header["pixdim"][0] < 0 else 1
    return np.column_stack([rotation * sizes, offset])
