"""The interface that all engines have."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """The network's answers on n slices.

    `logit`: float32[n], before calibration. `cam`: heat maps, float32[n, 7, 7], 0 and above. `distance`: float32[n],
    how far a slice lies from the slices of training, or None if the network has no such output.
    """

    logit: NDArray[np.float32]
    cam: NDArray[np.float32]
    distance: NDArray[np.float32] | None = None

    @classmethod
    def join(cls, parts: "Sequence[Self]") -> Self:
        """Return the scores of several calls of one engine as those of one call."""
        distances = [part.distance for part in parts if part.distance is not None]
        return cls(
            np.concatenate([part.logit for part in parts]),
            np.concatenate([part.cam for part in parts]),
            np.concatenate(distances) if distances else None,
        )


class Engine(Protocol):
    """Runs a network on prepared slices.

    `name` states library and precision; `precision` is f32, bf16, int8 or fake. `batch_size`: the best number of slices
    a call. `proof_sizes`: numbers of slices a call that together make it use each of its ways to compute.
    """

    name: str
    precision: str
    batch_size: int
    proof_sizes: tuple[int, ...]

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Return the scores of n ≥ 1 slices, uint8[n, 224, 224]; no slice's score depends on its neighbours.

        Several threads may call it at once.
        """
        ...
