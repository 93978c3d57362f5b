"""Scores many slices with an engine."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from worker.engines.interface import Engine, Scores


def score(engine: Engine, pixels: NDArray[np.uint8], progress: Callable[[float], None]) -> Scores:
    """Score n ≥ 1 slices, uint8[n, 224, 224], batch by batch. `progress` gets the share that is done so far."""
    parts = []
    for start in range(0, len(pixels), engine.batch_size):
        parts.append(engine.predict(pixels[start : start + engine.batch_size]))
        progress(min(1.0, (start + engine.batch_size) / len(pixels)))
    return Scores.join(parts)
