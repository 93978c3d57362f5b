"""The interface of all engines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """The network's answers for n slices.

    `logit`: float32[n], before calibration. `cam`: heat maps, float32[n, 7, 7], not negative. `distance`: float32[n],
    how far a slice is from the training slices, or None if the network has no such output.
    """

    logit: NDArray[np.float32]
    cam: NDArray[np.float32]
    distance: NDArray[np.float32] | None = None

    @classmethod
    def join(cls, parts: "Sequence[Self]") -> Self:
        """Join the scores of several calls of an engine, as if they came from one call."""
        distances = [part.distance for part in parts if part.distance is not None]
        return cls(
            np.concatenate([part.logit for part in parts]),
            np.concatenate([part.cam for part in parts]),
            np.concatenate(distances) if distances else None,
        )


class Engine(Protocol):
    """Runs a network on prepared slices.

    `name` states library and precision. `precision` is f32, bf16, int8 or fake. `batch_size`: the best number of slices
    in a call. `proof_sizes`: the numbers of slices in the calls of a proof. With these numbers, the engine computes in
    each of its ways.
    """

    name: str
    precision: str
    batch_size: int
    proof_sizes: tuple[int, ...]

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Return the scores of n ≥ 1 slices, uint8[n, 224, 224]. The score of a slice is independent of the others.

        Several threads may call this at the same time.
        """
        ...
