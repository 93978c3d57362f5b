"""How much of a prepared slice is lung: air that the body encloses."""

import numpy as np
from numpy.typing import NDArray

STEP = 4  # every fourth pixel of each side is looked at: 56 x 56 are enough for a share
LEVELS = np.arange(256.0)
LEAST_CONTRAST = 48  # grey levels; in the lung window lung and muscle are some 140 apart, fat and muscle 26


def lung_fraction(pixels: NDArray[np.uint8]) -> float:
    """Return the share of a prepared slice, uint8[224, 224], that is lung, 0 to 1.

    Lung is dark and has something bright on all four sides, which the air around the body does not. Otsu's threshold
    parts dark from bright, so pictures in any window are measured alike (Otsu, 1979, IEEE Transactions on Systems, Man,
    and Cybernetics 9). Air in the windpipe and the bowel counts too. Lung that is full of fluid is bright and does not.
    """
    coarse = pixels[::STEP, ::STEP]
    bright = coarse > _otsu_threshold(coarse)
    dark_inside = _between(bright) & _between(bright.T).T & ~bright
    return float(dark_inside.mean())


def _otsu_threshold(grey: NDArray[np.uint8]) -> int:
    """Return the level that parts the picture into two classes with the largest variance between them.

    If their means are less than `LEAST_CONTRAST` apart, it returns 255: nothing is bright.
    """
    counts = np.bincount(grey.ravel(), minlength=256)[:255]
    dark, sums = np.cumsum(counts), np.cumsum(counts * LEVELS[:255])
    bright, total = grey.size - dark, float(grey.sum(dtype=np.int64))
    both = (dark > 0) & (bright > 0)
    if not both.any():
        return 255
    contrast = np.zeros(255)
    contrast[both] = (total - sums[both]) / bright[both] - sums[both] / dark[both]
    level = int((dark * bright * contrast**2).argmax())
    return level if contrast[level] >= LEAST_CONTRAST else 255


def _between(bright: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return what lies, in its own row, between the first and the last bright pixel: bool[n, n]."""
    columns = np.arange(bright.shape[1])
    first = np.where(bright.any(1), bright.argmax(1), bright.shape[1])
    last = bright.shape[1] - 1 - bright[:, ::-1].argmax(1)
    return np.asarray((columns > first[:, None]) & (columns < last[:, None]))
