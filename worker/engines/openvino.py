"""OpenVINO on the processor: int8, bfloat16 or float32, whichever the package and the machine allow."""

import os
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from worker.engines.base import Scores
from worker.engines.package import Package, PackageError, read_package

FLOAT_FILE, INT8_FILE = "model.xml", "model-int8.xml"
BATCH = 32  # more gains nothing: a ResNet50 at 224² keeps all cores busy from a batch of 8 on


class OpenVinoEngine:
    """One compiled network. `precision` is f32, bf16 or int8."""

    batch_size = BATCH

    def __init__(self, model: Path, precision: str, threads: int | None) -> None:
        self.name = f"openvino-{precision}"
        # LATENCY: one request at a time on all cores; THROUGHPUT's several streams were slower on few cores.
        options: dict[str, object] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" or not has_bfloat16() else "bf16",
            "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
        }
        self._compiled = ov.Core().compile_model(str(model), "CPU", options)
        self._request = self._compiled.create_infer_request()

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Scores of n ≥ 1 slices, uint8[n, 224, 224]."""
        parts = [self._batch(slices[i : i + BATCH]) for i in range(0, len(slices), BATCH)]
        return Scores(np.concatenate([p.logit for p in parts]), np.concatenate([p.cam for p in parts]))

    def _batch(self, slices: NDArray[np.uint8]) -> Scores:
        found = self._request.infer({"slices": np.ascontiguousarray(slices)[..., None]}, share_inputs=True)
        return Scores(np.array(found["logit"], np.float32), np.array(found["cam"], np.float32))


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
