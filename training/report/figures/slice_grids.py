"""Draws grids of slices as PNG: augmented slices, and the most confident mistakes with their heat maps."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.report.figures.style import LIGHT, SMALL, Style, new_sheet, short_name, to_png
from worker.imaging.render import overlay_png

MOST_AUGMENTED, MOST_MISTAKES = 48, 12
TILE, GAP = 112, 4  # px
PAIR_TILE = 176  # px
GRID_DOTS = 110  # dots per inch; a slice has no finer details


@dataclass(frozen=True)
class Mistake:
    """A slice on the wrong side of the threshold, uint8[h, w], with its heat map, float32[7, 7], and its true label."""

    name: str
    pixels: NDArray[np.uint8]
    cam: NDArray[np.float32]
    probability: float
    label: int

    @property
    def verdict(self) -> str:
        """Return `COVID missed` or `False alarm`."""
        return "COVID missed" if self.label == 1 else "False alarm"


def augmented_grid(slices: NDArray[np.uint8], columns: int = 8) -> bytes:
    """Draw at most 48 slices, uint8[n, h, w], as a PNG, in rows of `columns`. The ground is transparent.

    Raises ValueError if there are no slices.
    """
    if len(slices) == 0:
        raise ValueError("no slice was augmented")
    shown = slices[:MOST_AUGMENTED]
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    ground = Image.new("LA", (columns * (TILE + GAP) - GAP, rows * (TILE + GAP) - GAP), (0, 0))
    for at, pixels in enumerate(shown):
        tile = Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.BICUBIC)
        ground.paste(tile.convert("LA"), (at % columns * (TILE + GAP), at // columns * (TILE + GAP)))
    return _png(ground)


def pair_png(mistake: Mistake) -> bytes:
    """Draw the slice, and beside it the slice with its heat map, as one PNG."""
    return _png(Image.fromarray(_pair(mistake)))


def mistakes_grid(mistakes: Sequence[Mistake], style: Style = LIGHT) -> bytes:
    """Draw at most 12 mistakes as a PNG, two in a row: the slice, the slice with its heat map, and its name.

    Raises ValueError if there are no mistakes.
    """
    if not mistakes:
        raise ValueError("no slice was labelled wrongly")
    shown = mistakes[:MOST_MISTAKES]
    rows = math.ceil(len(shown) / 2)
    figure = new_sheet(8.8, 2.45 * rows, style)
    cells: Any = figure.subplots(rows, 2, squeeze=False)
    for axes in cells.flat:
        axes.set_axis_off()
    for axes, mistake in zip(cells.flat, shown, strict=False):
        axes.imshow(_pair(mistake), interpolation="nearest")
        words = f"{mistake.verdict}, p = {mistake.probability:.3f}\n{short_name(mistake.name, 44)}"
        axes.set_title(words, fontsize=SMALL, color=style.ink, loc="left", parse_math=False)
    return to_png(figure, GRID_DOTS)


def _pair(mistake: Mistake) -> NDArray[np.uint8]:
    """Return the two pictures side by side, uint8[176, 356, 3]."""
    plain = Image.fromarray(mistake.pixels).resize((PAIR_TILE, PAIR_TILE), Image.Resampling.BICUBIC).convert("RGB")
    warm = Image.open(io.BytesIO(overlay_png(mistake.pixels, mistake.cam, PAIR_TILE))).convert("RGB")
    gap = np.full((PAIR_TILE, GAP, 3), 128, np.uint8)
    return np.concatenate([np.asarray(plain), gap, np.asarray(warm)], axis=1)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
