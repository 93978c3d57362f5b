"""OpenVINO on the processor: int8, bfloat16 or float32, whichever the package and the machine allow."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from worker.engines.base import Scores
from worker.engines.package import FLOAT_FILE, INT8_FILE, Package, PackageError, read_package

REQUEST = 8  # slices that one core computes at a time; 16 are no quicker at 224², and take 100 MB more on two cores


class OpenVinoEngine:
    """One compiled network. `precision` is f32, bf16 or int8.

    Each core works on slices of its own (a stream of one thread each). Cores that share every layer of one request wait
    for each other at each of them, and the engine is held up whenever anything else runs on any of them.
    """

    def __init__(self, model: Path, precision: str, threads: int | None) -> None:
        self.name = f"openvino-{precision}"
        cores = threads or os.cpu_count() or 1
        self.batch_size = 8 * REQUEST * cores
        options: dict[str, object] = {
            "NUM_STREAMS": str(cores),
            "INFERENCE_NUM_THREADS": cores,
            "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" or not has_bfloat16() else "bf16",
        }
        compiled = ov.Core().compile_model(str(model), "CPU", options)
        self._has_distance = any("distance" in output.names for output in compiled.outputs)
        self._queue = ov.AsyncInferQueue(compiled, cores)
        self._queue.set_callback(_keep)

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Scores of n ≥ 1 slices, uint8[n, 224, 224]."""
        count = len(slices)
        distance = np.empty(count, np.float32) if self._has_distance else None
        found = Scores(np.empty(count, np.float32), np.empty((count, 7, 7), np.float32), distance)
        pixels = np.ascontiguousarray(slices)[..., None]
        share = min(REQUEST, -(-len(slices) // len(self._queue)))  # a few slices too are shared out between the cores
        for start in range(0, len(slices), share):
            part = slice(start, start + share)
            targets = {"logit": found.logit[part], "cam": found.cam[part]}
            if distance is not None:
                targets["distance"] = distance[part]
            self._queue.start_async({"slices": pixels[part]}, targets, share_inputs=True)
        self._queue.wait_all()
        return found


def _keep(request: Any, targets: dict[str, NDArray[np.float32]]) -> None:
    """Copy a finished request's answers to where they belong."""
    for name, target in targets.items():
        target[:] = request.get_tensor(name).data


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16 itself (AMX or AVX512-BF16)."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load_openvino(folder: Path, choice: str, threads: int | None) -> OpenVinoEngine:
    """The engine for `choice` (see `base.load_engine`) from a package's folder, its hashes checked.

    Raises PackageError, where the package lacks what is asked for too.
    """
    package = read_package(folder)
    precision = _best(package) if choice in ("auto", "openvino") else choice.removeprefix("openvino-")
    file = INT8_FILE if precision == "int8" else FLOAT_FILE
    if file not in package.files:
        raise PackageError(f"the package {package.name} holds no {file}")
    return OpenVinoEngine(folder / file, precision, threads)


def _best(package: Package) -> str:
    """The quickest precision whose parity with float32 passed."""
    if INT8_FILE in package.files:
        return "int8"
    if package.parity.get("bf16", {}).get("passed") and has_bfloat16():
        return "bf16"
    return "f32"
