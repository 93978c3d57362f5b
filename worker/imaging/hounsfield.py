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
"""Least shares of a slice. 138 different slices of real CT, from the neck to the pelvis, have at least 0.14 of each.
112 of them are of one scan. With 1,024 subtracted, they have at most 0.0192 of soft tissue.
With 1,024 added, they have no air."""
_FAT, _LEAST_FAT = (-1200, -40), 0.01  # with 1,000 added, air is 0 HU: its noise must not look like fat
_DENSE, _MOST_DENSE = 400, 0.25
"""Limits for a slice without air, such as one of a small field. Of the squares of 110 mm in 132 of these slices, 3,341
show no air. One of these is beyond a limit, and no square of 137 mm or more without air is. Of 10,379 such squares of
110 mm in the 138 slices, none has more than 0.107 of dense bone. With 1,000 or 1,024 added, all of the 132 slices and
all squares without air are beyond a limit. So are 20 of the slices in a field that is 30 % wider."""


def looks_odd(hu: NDArray[np.number[Any]]) -> bool:
    """Return whether the values can hardly be HU. `hu`: of any shape, also a sample, without padding if it is known.

    They can hardly be if a slice shows almost no soft tissue. They can hardly be either if it shows almost no air and
    almost no fat, or almost no air and very much dense bone. This is so if an offset was applied twice or not at all,
    or if the values are grey levels. A right slice is odd only if it is cut to a very small part of the body.
    """
    if not hu.size:
        return False
    air, tissue, fat = (np.count_nonzero((hu >= low) & (hu <= high)) / hu.size for low, high in (_AIR, _TISSUE, _FAT))
    is_dense = np.count_nonzero(hu > _DENSE) > _MOST_DENSE * hu.size
    return bool(tissue < _LEAST_TISSUE or (air < _LEAST_AIR and (fat < _LEAST_FAT or is_dense)))


def check_wrapped(hu: NDArray[np.number[Any]]) -> None:
    """Raise SliceRejected(`unsupported`) if most values are too high for HU. `hu`: as in `looks_odd`."""
    if np.count_nonzero(hu > HU_RANGE[1]) > hu.size / 2:
        raise SliceRejected("unsupported", "The values look like negative numbers stored as unsigned ones.")
