"""Measures how much of a prepared slice is lung: air that the body encloses."""

import numpy as np
from numpy.typing import NDArray

STEP = 4  # only every fourth pixel of each side is used, because 56 x 56 pixels are enough
LEVELS = np.arange(256.0)
LEAST_CONTRAST = 48  # grey levels; in the lung window, lung and muscle differ by about 140, fat and muscle by 26


def lung_fraction(pixels: NDArray[np.uint8]) -> float:
    """Return which share of a prepared slice, uint8[224, 224], is lung, 0 to 1.

    Lung is dark, and has something bright on all four sides. The air around the body does not. Otsu's threshold
    separates dark from bright, so it works in any window (Otsu, 1979, IEEE Transactions on Systems, Man, and
    Cybernetics 9). Air in the windpipe and the bowel counts too. Lung that is full of fluid is bright, and does not
    count.
    """
    coarse = pixels[::STEP, ::STEP]
    bright = coarse > _otsu_threshold(coarse)
    dark_inside = _between(bright) & _between(bright.T).T & ~bright
    return float(dark_inside.mean())


def _otsu_threshold(grey: NDArray[np.uint8]) -> int:
    """Return the level that divides the pixels into two classes with the largest variance between them.

    If the means of the classes differ by less than `LEAST_CONTRAST`, return 255: nothing is bright.
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
    """Return which pixels are between the first and the last bright pixel of their row: bool[n, n]."""
    columns = np.arange(bright.shape[1])
    first = np.where(bright.any(1), bright.argmax(1), bright.shape[1])
    last = bright.shape[1] - 1 - bright[:, ::-1].argmax(1)
    return np.asarray((columns > first[:, None]) & (columns < last[:, None]))
