"""Judges whether values that should be Hounsfield units (HU) can be those of CT of the chest."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.imaging.rejections import SliceRejected

STEP = 4
"""Only every fourth pixel of each side needs to be judged."""
LOWEST_AIR = -500
"""CT of the chest holds air, so its lowest value is this or less; masks, labels and greys begin near 0."""
HIGHEST_TISSUE = -200
"""It also holds tissue, so its highest value is this or more. dcm2niix may write CT of Philips in other units."""
HU_RANGE = (-32768, 32767)

_AIR, _TISSUE = (-1200, LOWEST_AIR), (HIGHEST_TISSUE, 200)  # lower values than those of air are padding
_LEAST_AIR, _LEAST_TISSUE = 0.01, 0.02
"""Least shares of a slice. 139 different slices of real CT, from the neck to the pelvis, have at least 0.14 of each.
With 1,024 subtracted, they have at most 0.0192 of soft tissue. With 1,024 added, they have no air."""


def looks_odd(hu: NDArray[np.number[Any]]) -> bool:
    """Return whether a slice shows almost no air, or almost no soft tissue. `hu`: of any shape, also a sample.

    A slice does if an offset was applied twice or not at all, or if its values are grey levels. A right slice does only
    if it is cut to a part of the body without air.
    """
    air, tissue = (np.count_nonzero((hu >= low) & (hu <= high)) / hu.size for low, high in (_AIR, _TISSUE))
    return bool(air < _LEAST_AIR or tissue < _LEAST_TISSUE)


def check_wrapped(hu: NDArray[np.number[Any]]) -> None:
    """Raise SliceRejected(`unsupported`) if most values are too high for HU. `hu`: of any shape, also a sample."""
    if np.count_nonzero(hu > HU_RANGE[1]) > hu.size / 2:
        raise SliceRejected("unsupported", "The values look like negative numbers stored as unsigned ones.")
