"""A trained network becomes a package: Keras and OpenVINO files, each held to the same answers, and a manifest."""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from db.beside import beside
from training.ood import far_end
from training.trainable import PREDICT_BATCH, exactly, predict
from worker.engines.package import FLOAT_FILE, INT8_FILE, KERAS_FILE, MANIFEST, Package, sha256_of
from worker.imaging.prepare import RECIPE

F32_TOLERANCE = 1e-3  # of a probability
ACCURACY_TOLERANCE, AUC_TOLERANCE = 0.005, 0.005
POOLS = ("ReduceMean", "AvgPool")  # what the pooled features are made by
CALIBRATION_SLICES = 64  # that NNCF measures activations on


@exactly()
def publish(
    model: Any,
    folder: Path,
    *,
    name: str,
    note: str,
    slices: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    calibration: NDArray[np.uint8],
    threshold: float,
    temperature: float,
    metrics: dict[str, Any],
    dataset_hash: str | None = None,
    extra: dict[str, Any] | None = None,
    ood: dict[str, float] | None = None,
    accompany: Callable[[dict[str, Any]], None] = lambda parity: None,
    alive: Callable[[], None] = lambda: None,
) -> Package:
    """Write the package of `model` (float32, `uint8[n, 224, 224, 1]` to logit, cam and distance) into `folder`.

    `slices`, uint8[n, 224, 224], and `labels`, 0 or 1 [n], are unseen ones: parity is measured on them. `calibration`,
    uint8[m, 224, 224], are other slices, which int8 takes its ranges from; parity on those would flatter it. OpenVINO's
    files are kept only where its float32 is within 1e-3 of Keras, an int8 file only where its accuracy and AUC are
    within half a point. `ood` is what float32 says of the distance; the other engines' own thresholds are found on
    `calibration`. `accompany` is told the parity and may write more files into the folder; `alive` is called now and
    then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _nothing_calls_out()
    model.save(folder / KERAS_FILE)
    model.export(str(folder / FLOAT_FILE), format="openvino", verbose=False)
    judge = _Judge(model, slices, labels, threshold, temperature, alive)
    parity = {"slices": len(slices)} | _parity(folder, judge, calibration, alive)
    limits = _limits(folder, parity, calibration, ood["threshold"], alive) if ood and parity["f32"]["passed"] else {}
    accompany(parity)
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    package = Package(
        name,
        note,
        RECIPE,
        threshold,
        temperature,
        files,
        metrics,
        parity,
        dataset_hash,
        created,
        extra or {},
        (ood or {}) | limits,
    )
    package.write(folder)
    return package


def _parity(folder: Path, judge: "_Judge", calibration: NDArray[np.uint8], alive: Callable[[], None]) -> dict[str, Any]:
    """Hold every precision against Keras, and keep the files that pass; an int8 file is made of an exact one."""
    exact, small = folder / FLOAT_FILE, folder / INT8_FILE
    found = {"f32": judge.float32(exact)}
    if not found["f32"]["passed"]:
        _leave_out(exact)
        return found | {name: {"passed": False, "reason": "float32 differs from Keras"} for name in ("bf16", "int8")}
    found["bf16"] = judge.half(exact)
    _quantise(exact, small, calibration, alive)
    found["int8"] = judge.compare(small, "int8")
    if not found["int8"]["passed"]:
        _leave_out(small)
    return found


def _leave_out(file: Path) -> None:
    for suffix in (".xml", ".bin"):
        file.with_suffix(suffix).unlink()


def _nothing_calls_out() -> None:
    """NNCF and OpenVINO's converter report usage to their maker where this module can be imported; now it cannot."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    os.environ["NNCF_CI"] = "1"


def _quantise(source: Path, target: Path, slices: NDArray[np.uint8], alive: Callable[[], None]) -> None:
    """Post-training quantisation to int8, calibrated on some of the slices."""
    import nncf
    import openvino as ov

    nncf.set_log_level("ERROR")
    samples = [each[None, ..., None] for each in slices[:: max(len(slices) // CALIBRATION_SLICES, 1)]]
    model = ov.Core().read_model(str(source))
    exact = nncf.IgnoredScope(names=sorted(_distance_nodes(model)), validate=False)

    def quantise() -> Any:
        return nncf.quantize(
            model,
            nncf.Dataset(samples[:CALIBRATION_SLICES]),
            subset_size=CALIBRATION_SLICES,
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=exact,
            fast_bias_correction=False,  # the fast one leaves four times the error in a probability
        )

    with contextlib.redirect_stdout(io.StringIO()):  # NNCF draws a progress bar, terminal or not
        quantised = beside(quantise, alive)
    ov.save_model(quantised, str(target), compress_to_fp16=False)


def _distance_nodes(model: Any) -> set[str]:
    """The nodes between the pooled features and the distance: in int8 a distance could not grow past those of the
    slices that its range was taken from, and nothing would ever be unfamiliar."""
    found: set[str] = set()
    waiting = [r for r in model.get_results() if "distance" in r.output(0).names | {r.get_friendly_name()}]
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in found or node.get_type_name() == "Constant":
            continue
        found.add(node.get_friendly_name())
        if node.get_type_name() not in POOLS:
            waiting += [value.get_node() for value in node.input_values()]
    return found


def _limits(
    folder: Path, parity: dict[str, Any], slices: NDArray[np.uint8], limit: float, alive: Callable[[], None]
) -> dict[str, float]:
    """By engine, the distance above which it flags a slice: float32's `limit`, moved by as much as its distances of
    `slices` reach further. Rounding scatters distances, and the large ones most."""
    from worker.engines.openvino import OpenVinoEngine

    def reach(engine: OpenVinoEngine) -> float:
        found = []
        for start in range(0, len(slices), PREDICT_BATCH):
            distance = engine.predict(slices[start : start + PREDICT_BATCH]).distance
            if distance is None:
                raise RuntimeError(f"{engine.name} tells no distance")
            found.append(distance)
            alive()
        return far_end(np.concatenate(found))

    exact = reach(OpenVinoEngine(folder / FLOAT_FILE, "f32", None))
    others = (("bf16", FLOAT_FILE), ("int8", INT8_FILE))
    engines = [OpenVinoEngine(folder / file, name, None) for name, file in others if parity[name]["passed"]]
    return {engine.name: limit * reach(engine) / exact for engine in engines}


class _Judge:
    """Holds an engine's answers on some slices against those of the Keras model."""

    def __init__(
        self,
        model: Any,
        slices: NDArray[np.uint8],
        labels: NDArray[np.integer[Any]],
        threshold: float,
        temperature: float,
        alive: Callable[[], None],
    ) -> None:
        self._slices, self._labels, self._threshold, self._temperature = slices, labels, threshold, temperature
        self._alive = alive
        logit = predict(model, slices[..., None], alive)["logit"]
        self._reference = self._probability(np.asarray(logit))

    def _probability(self, logit: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-logit.astype(np.float64) / self._temperature)))

    def _of(self, path: Path, precision: str) -> NDArray[np.float64]:
        from worker.engines.openvino import OpenVinoEngine

        self._alive()
        found = OpenVinoEngine(path, precision, None).predict(self._slices).logit
        self._alive()
        return self._probability(found)

    def _accuracy(self, probability: NDArray[np.float64]) -> float:
        return float(((probability >= self._threshold) == self._labels).mean())

    def float32(self, path: Path) -> dict[str, Any]:
        """The largest difference of a probability, and whether it is little enough."""
        largest = float(np.abs(self._of(path, "f32") - self._reference).max())
        known = largest if np.isfinite(largest) else None  # JSON has no other numbers
        return {"largest_difference": known, "passed": bool(largest <= F32_TOLERANCE)}

    def half(self, path: Path) -> dict[str, Any]:
        """bfloat16, where this processor has it; elsewhere nothing is known of it, and it is not used."""
        from worker.engines.openvino import has_bfloat16

        return self.compare(path, "bf16") if has_bfloat16() else {"passed": False, "reason": "not measured here"}

    def compare(self, path: Path, precision: str) -> dict[str, Any]:
        """How far accuracy and AUC fall below float32's, and whether that is little enough."""
        found = self._of(path, precision)
        if not np.isfinite(found).all():
            return {"passed": False, "reason": "it gives scores that are no numbers"}
        accuracy = self._accuracy(found) - self._accuracy(self._reference)
        auc = float(roc_auc_score(self._labels, found) - roc_auc_score(self._labels, self._reference))
        return {
            "largest_difference": float(np.abs(found - self._reference).max()),
            "accuracy_change": accuracy,
            "auc_change": auc,
            "passed": bool(accuracy >= -ACCURACY_TOLERANCE and auc >= -AUC_TOLERANCE),
        }
