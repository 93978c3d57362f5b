"""The file in which an evaluation keeps its scores, and what they say about distances."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.engines.interface import Scores

Array = NDArray[np.float32]


def pack(scores: Scores) -> bytes:
    """Return the bytes of a .npy file: float32[2, n], the logits and the distances, or [1, n] without distances."""
    packed = io.BytesIO()
    rows = [scores.logit] if scores.distance is None else [scores.logit, scores.distance]
    np.save(packed, np.stack(rows).astype(np.float32), allow_pickle=False)
    return packed.getvalue()


def unpack(path: Path) -> tuple[Array, Array | None]:
    """Return the logits and the distances, float32[n] each. The distances are None if the network has none."""
    rows = np.atleast_2d(np.load(path, allow_pickle=False))
    return rows[0], rows[1] if len(rows) > 1 else None


def are_ood(distance: Array | None, limit: float | None) -> NDArray[np.bool_] | None:
    """Return which slices, bool[n], are out of distribution, or None if distances or the limit are not known."""
    return None if distance is None or limit is None else distance > limit
