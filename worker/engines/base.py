"""The interface that all engines have, and the choice of one."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from worker.engines.package import FLOAT_FILE, PackageError


@dataclass(frozen=True)
class Scores:
    """What the network says of n slices. `logit`: float32[n], before calibration; `cam`: heat maps, float32[n, 7, 7],
    0 and above; `distance`: float32[n], from what the network knows, or None where it tells none."""

    logit: NDArray[np.float32]
    cam: NDArray[np.float32]
    distance: NDArray[np.float32] | None = None


class Engine(Protocol):
    """Runs a network on prepared slices, `batch_size` at a time at its best."""

    name: str
    batch_size: int

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Scores of n ≥ 1 slices, uint8[n, 224, 224]; each slice's do not depend on its neighbours."""
        ...


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, told without loading any framework."""
    return Path("/dev/nvidia0").exists()


def load_engine(folder: Path, choice: str = "auto", *, threads: int | None = None) -> Engine:
    """The engine of a package.

    `choice`: auto (keras where there is no file for OpenVINO, or a GPU and Keras; else openvino), openvino (int8 if the
    package has it, else bfloat16 where the processor has it, else float32), openvino-f32, openvino-bf16, openvino-int8,
    keras, or fake. `threads`: of the processor; None for one per core.

    Raises PackageError, ValueError (an unknown choice).
    """
    if choice == "fake":
        from worker.engines.fake import FakeEngine

        return FakeEngine()
    without_openvino = choice == "auto" and not (folder / FLOAT_FILE).exists()
    has_keras = find_spec("keras") is not None
    if without_openvino and not has_keras:
        raise PackageError(
            f"the package holds no {FLOAT_FILE}, and Keras is not installed here: it comes with training"
        )
    if choice == "keras" or without_openvino or (choice == "auto" and has_gpu() and has_keras):
        from worker.engines.keras import KerasEngine

        return KerasEngine(folder)
    if choice == "auto" or choice.startswith("openvino"):
        from worker.engines.openvino import load_openvino

        return load_openvino(folder, choice, threads)
    raise ValueError(f"no such engine: {choice}")
