"""Makes the files of a package from a trained network: files for Keras and OpenVINO, and a proof of their answers."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.evaluation.result import VersionMetrics
from db.models.documents import Facts
from db.registry.manifest import FLOAT_FILE, INT8_FILE, KERAS_FILE, MANIFEST, Package, ProofFacts
from db.registry.proof_file import PROOF_FILE, write_proof_file
from training.data.slices import Labelled
from training.evaluation.scoring import score
from training.export.parity import (
    F32_TOLERANCE,
    Calibration,
    EngineComparison,
    PrecisionParity,
    calibrate,
    compare,
)
from training.export.quantise import candidates, draw_calibration, prevent_telemetry
from training.network.backend import exact_float32
from training.network.training_copy import PREDICT_BATCH
from worker.engines import proof
from worker.engines.devices import has_bfloat16
from worker.engines.interface import Engine, Scores
from worker.engines.openvino import OpenVinoEngine
from worker.engines.package import sha256_of
from worker.engines.processor import read_processor
from worker.imaging.recipe import RECIPE

PARITY_SLICES = 1000  # the most slices of the test part
REFERENCE = "keras-f32"  # the trained network itself
ROOM = 1.5  # elsewhere, an engine may differ from the proof by ROOM × its difference here …
FLOORS = {"f32": 0.03, "bf16": 0.1, "int8": 0.05}  # … + FLOORS, in the units of `worker.engines.proof.Differences`

Alive = Callable[[], None]


@dataclass(frozen=True)
class Exported:
    """The exported files in `folder`, and the facts about them.

    `exact`: the scores of float32 on validation and test. `calibration`: the calibration of float32. `engines`: the
    calibration of each other engine that may serve, by engine name. `compared`: the number of test slices for `parity`.
    """

    folder: Path
    exact: dict[str, Scores]
    calibration: Calibration
    engines: dict[str, Calibration]
    compared: int
    parity: dict[str, PrecisionParity]
    proof: ProofFacts

    @property
    def parity_as_dict(self) -> dict[str, Any]:
        """Return the parity for the manifest, and the processor that it was measured on."""
        stated = {name: one.as_dict() for name, one in self.parity.items()}
        return {"slices": self.compared, "processor": read_processor().line} | stated


class _Reference:
    """The trained network itself, as an engine in float32."""

    name = REFERENCE
    precision = "f32"
    batch_size = PREDICT_BATCH
    proof_sizes: tuple[int, ...] = ()

    def __init__(self, network: Any) -> None:
        self._network = network

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Return the scores of n ≥ 1 slices, uint8[n, 224, 224]."""
        answers = self._network.predict(slices[..., None], batch_size=PREDICT_BATCH, verbose=0)
        values = {name: np.asarray(answer, np.float32) for name, answer in answers.items()}
        return Scores(values["logit"], values["cam"], values.get("distance"))


@exact_float32()
def export(
    network: Any,
    folder: Path,
    parts: Mapping[str, Labelled],
    rule: str,
    seed: int,
    alive: Alive = lambda: None,
    *,
    plain: float = 1.0,
) -> Exported:
    """Write the files of `network` (float32, `uint8[n, 224, 224, 1]` to logit, cam and distance) into `folder`.

    `parts`: the train part gives int8 its ranges. The validation part calibrates each engine, and decides which files
    are kept. OpenVINO's files are kept only if its float32 is within 1e-3 of Keras. The other precisions are kept only
    if they change few labels. The differences on the test part are only reported. `rule` chooses the thresholds.
    `alive` is called now and then. `plain`: the temperature that the network's loss calls for.

    Raises ValueError (a class is missing from the validation slices).
    """
    folder.mkdir(parents=True, exist_ok=True)
    prevent_telemetry()
    reference = _Reference(network)
    exact = {name: score(reference, parts[name].pixels, lambda share: alive()) for name in ("validation", "test")}
    network.save(folder / KERAS_FILE)
    network.export(str(folder / FLOAT_FILE), format="openvino", verbose=False)
    judge = _Judge(folder, exact, partial(calibrate, rule=rule, plain=plain), parts, alive)
    parity = judge.all_precisions(seed)
    return Exported(
        folder=folder,
        exact=exact,
        calibration=judge.calibration,
        engines=judge.engines,
        compared=len(judge.compared),
        parity=parity,
        proof=_write_proof(folder, reference, judge.kept),
    )


def write_manifest(
    exported: Exported,
    *,
    name: str,
    note: str,
    metrics: VersionMetrics,
    dataset_hash: str | None = None,
    extra: dict[str, Any] | None = None,
) -> Package:
    """Write `package.json` for all files in the folder, and return the manifest."""
    folder, ours = exported.folder, exported.calibration
    limits = {engine: own.ood for engine, own in exported.engines.items() if own.ood is not None}
    package = Package(
        name=name,
        note=note,
        recipe=RECIPE,
        threshold=ours.threshold,
        temperature=ours.temperature,
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST},
        metrics=metrics.as_json(),
        parity=exported.parity_as_dict,
        dataset_hash=dataset_hash,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        extra=Facts.of(extra or {}),
        ood={} if ours.ood is None else {"threshold": ours.ood} | limits,
        calibration={
            engine: {"temperature": own.temperature, "threshold": own.threshold}
            for engine, own in exported.engines.items()
        },
        proof=exported.proof,
    )
    package.write(folder)
    return package


class _Judge:
    """Compares each precision with float32, and keeps the files that pass."""

    def __init__(
        self,
        folder: Path,
        exact: Mapping[str, Scores],
        calibrated: Callable[..., Calibration],
        parts: Mapping[str, Labelled],
        alive: Alive,
    ) -> None:
        self._folder, self._exact, self._parts, self._alive = folder, exact, parts, alive
        self._calibrated = calibrated
        self.calibration = calibrated(exact["validation"], parts["validation"])
        self.kept: dict[str, Engine] = {}
        self.engines: dict[str, Calibration] = {}
        count = len(parts["test"])
        self.compared = np.linspace(0, count - 1, min(PARITY_SLICES, count)).astype(int)

    def all_precisions(self, seed: int) -> dict[str, PrecisionParity]:
        """Return the parity of f32, bf16 and int8."""
        exact = self._float32()
        if not exact.passed:
            _remove(self._folder / FLOAT_FILE)
            left_out = PrecisionParity(passed=False, reason="float32 differs from Keras")
            return {"f32": exact, "bf16": left_out, "int8": left_out}
        return {"f32": exact, "bf16": self._bfloat16(), "int8": self._int8(seed)}

    def _float32(self) -> PrecisionParity:
        engine = OpenVinoEngine(self._folder / FLOAT_FILE, "f32", None)
        scores = self._score(engine, self._parts["validation"].pixels)
        ours = self.calibration
        differences = np.abs(ours.probability(scores) - ours.probability(self._exact["validation"]))
        passed = bool(differences.max() <= F32_TOLERANCE)
        if passed:
            self.kept["f32"] = engine
        return PrecisionParity(passed, on_test=self._on_test(engine, ours))

    def _bfloat16(self) -> PrecisionParity:
        if not has_bfloat16():
            return PrecisionParity(passed=False, reason="not measured here")
        return self._judged(OpenVinoEngine(self._folder / FLOAT_FILE, "bf16", None))

    def _int8(self, seed: int) -> PrecisionParity:
        """Make the candidates. Keep the one that is closest to float32 on the validation slices, and judge it."""
        slices = draw_calibration(self._parts["train"], seed)
        files: dict[str, Path] = {}
        on_validation: dict[str, EngineComparison | None] = {}
        for name, file in candidates(self._folder / FLOAT_FILE, self._folder, slices, self._alive):
            scores = self._score(OpenVinoEngine(file, "int8", None), self._parts["validation"].pixels)
            files[name], on_validation[name] = file, self._compared(scores, "validation", self.calibration)
        best = min(files, key=lambda name: one.order if (one := on_validation[name]) else (np.inf,))
        target = self._folder / INT8_FILE
        for suffix in (".xml", ".bin"):
            files[best].with_suffix(suffix).rename(target.with_suffix(suffix))
        for name, file in files.items():
            if name != best:
                _remove(file)
        parity = self._judged(OpenVinoEngine(target, "int8", None))
        if not parity.passed:
            _remove(target)
        return replace(parity, chosen=best, candidates=on_validation)

    def _judged(self, engine: OpenVinoEngine) -> PrecisionParity:
        """Calibrate an engine on the validation slices, and keep it if it changes few labels there."""
        validation = self._parts["validation"]
        scores = self._score(engine, validation.pixels)
        if not np.isfinite(scores.logit).all():
            return PrecisionParity(passed=False, reason="it gives scores that are not finite")
        ours = self._calibrated(scores, validation, like=self.calibration)
        there = self._compared(scores, "validation", ours)
        passed = there is not None and there.passes
        if passed:
            self.kept[engine.precision] = engine
            self.engines[engine.name] = ours
        return PrecisionParity(passed, on_test=self._on_test(engine, ours), on_validation=there)

    def _on_test(self, engine: Engine, ours: Calibration) -> EngineComparison | None:
        """Return how an engine differs from float32 on the test slices."""
        return self._compared(self._score(engine, self._parts["test"].pixels[self.compared]), "test", ours)

    def _score(self, engine: Engine, pixels: NDArray[np.uint8]) -> Scores:
        return score(engine, pixels, lambda share: self._alive())

    def _compared(self, scores: Scores, part: str, ours: Calibration) -> EngineComparison | None:
        exact, labels = self._exact[part], self._parts[part].labels
        if part == "test":
            exact = Scores(exact.logit[self.compared], exact.cam[self.compared])
            labels = labels[self.compared]
        return compare(scores, exact, labels, ours, self.calibration)


def _remove(file: Path) -> None:
    for suffix in (".xml", ".bin"):
        file.with_suffix(suffix).unlink()


def _write_proof(folder: Path, reference: Engine, engines: Mapping[str, Engine]) -> ProofFacts:
    """Write the proof slices with the float32 answers. Return how far each precision may differ from these."""
    slices = proof.draw_slices()
    answers = reference.predict(slices)
    arrays = {"slices": slices} | {name: array for name, array in asdict(answers).items() if array is not None}
    write_proof_file(folder / PROOF_FILE, arrays)
    tolerance = {}
    for precision, floor in FLOORS.items():
        if engine := engines.get(precision):
            differences = proof.differences(engine.predict(slices), answers, 1.0, 1.0)
            names = ("logit", "distance", "cam")
            tolerance[precision] = {name: ROOM * getattr(differences, name) + floor for name in names}
    return ProofFacts(slices=len(slices), seed=proof.SEED, tolerance=tolerance)
