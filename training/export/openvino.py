"""A trained network becomes the files of a package: Keras's, OpenVINO's, and a proof, each held to the same answers."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from db.models.documents import Facts
from db.registry.manifest import FLOAT_FILE, INT8_FILE, KERAS_FILE, MANIFEST, Package, ProofFacts
from db.registry.proof_file import PROOF_FILE, write_proof_file
from training.data.slices import Labelled
from training.export.parity import F32_TOLERANCE, Calibration, EngineComparison, calibrate, compare, score
from training.export.quantise import candidates, draw_calibration, prevent_telemetry
from training.network.training_copy import exactly, predict
from worker.engines import proof
from worker.engines.devices import has_bfloat16
from worker.engines.interface import Engine, Scores
from worker.engines.openvino import OpenVinoEngine
from worker.engines.package import sha256_of
from worker.engines.processor import read_processor
from worker.imaging.recipe import RECIPE

PARITY_SLICES = 1000  # of the test part, at most
ROOM = 1.5  # an engine may differ from the proof by so many times what it differs here …
FLOORS = {"f32": 0.03, "bf16": 0.1, "int8": 0.05}  # … and this, in the units of `worker.engines.proof.Differences`

Alive = Callable[[], None]


@dataclass
class Exported:
    """The files that were written into `folder`, and what is known of them.

    `exact`: float32's scores of the parts validation and test. `calibration`: float32's. `engines`: the calibration of
    each other engine that may serve, by its name. `parity`: by precision. `proof`: as in the manifest.
    """

    folder: Path
    exact: dict[str, Scores]
    calibration: Calibration
    engines: dict[str, Calibration] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)


class _Reference:
    """The trained network, as an engine in float32."""

    name = "keras-f32"
    precision = "f32"
    batch_size = 32
    proof_sizes: tuple[int, ...] = ()

    def __init__(self, network: Any, alive: Alive) -> None:
        self._network, self._alive = network, alive

    def predict(self, slices: np.ndarray[Any, Any]) -> Scores:
        found = predict(self._network, slices[..., None], self._alive)
        values = {name: np.asarray(found[name], np.float32) for name in found}
        return Scores(values["logit"], values["cam"], values.get("distance"))


@exactly()
def export(
    network: Any, folder: Path, parts: Mapping[str, Labelled], rule: str, seed: int, alive: Alive = lambda: None
) -> Exported:
    """Write the files of `network` (float32, `uint8[n, 224, 224, 1]` to logit, cam and distance) into `folder`.

    `parts`: train gives int8 its ranges. By validation each engine is calibrated, and it decides which files are kept:
    OpenVINO's only where its float32 is within 1e-3 of Keras, bfloat16 and int8 only where they change few verdicts.
    On test the differences are stated, and nothing is chosen. `rule` chooses thresholds. `alive` is called now and
    then.

    Raises ValueError (a class is missing from the validation slices).
    """
    folder.mkdir(parents=True, exist_ok=True)
    prevent_telemetry()
    reference = _Reference(network, alive)
    exact = {name: score(reference, parts[name].pixels, alive) for name in ("validation", "test")}
    network.save(folder / KERAS_FILE)
    network.export(str(folder / FLOAT_FILE), format="openvino", verbose=False)
    exported = Exported(folder, exact, calibrate(exact["validation"], parts["validation"], rule))
    judge = _Judge(exported, parts, rule, alive)
    exported.parity = {"slices": len(judge.compared), "processor": read_processor().line} | judge.all_precisions(seed)
    _write_proof(exported, reference, judge.kept)
    return exported


def write_manifest(
    exported: Exported,
    *,
    name: str,
    note: str,
    metrics: dict[str, Any],
    dataset_hash: str | None = None,
    extra: dict[str, Any] | None = None,
) -> Package:
    """Write `package.json` for all the files that lie in the folder by now, and return what it says."""
    folder, ours = exported.folder, exported.calibration
    limits = {engine: own.ood for engine, own in exported.engines.items() if own.ood is not None}
    package = Package(
        name=name,
        note=note,
        recipe=RECIPE,
        threshold=ours.threshold,
        temperature=ours.temperature,
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST},
        metrics=metrics,
        parity=exported.parity,
        dataset_hash=dataset_hash,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        extra=Facts.of(extra or {}),
        ood={} if ours.ood is None else {"threshold": ours.ood} | limits,
        calibration={
            engine: {"temperature": own.temperature, "threshold": own.threshold}
            for engine, own in exported.engines.items()
        },
        proof=ProofFacts.of(exported.proof),
    )
    package.write(folder)
    return package


class _Judge:
    """Holds each precision to float32's answers, and keeps the files that pass."""

    def __init__(self, exported: Exported, parts: Mapping[str, Labelled], rule: str, alive: Alive) -> None:
        self._exported, self._parts, self._rule, self._alive = exported, parts, rule, alive
        self._folder = exported.folder
        self.kept: dict[str, Engine] = {}
        count = len(parts["test"])
        self.compared = np.linspace(0, count - 1, min(PARITY_SLICES, count)).astype(int)

    def all_precisions(self, seed: int) -> dict[str, Any]:
        """Return the parity of f32, bf16 and int8."""
        found = {"f32": self._float32()}
        if not found["f32"]["passed"]:
            _remove(self._folder / FLOAT_FILE)
            return found | {name: _left_out("float32 differs from Keras") for name in ("bf16", "int8")}
        found["bf16"] = self._bfloat16()
        found["int8"] = self._int8(seed)
        return found

    def _float32(self) -> dict[str, Any]:
        engine = OpenVinoEngine(self._folder / FLOAT_FILE, "f32", None)
        scores = score(engine, self._parts["validation"].pixels, self._alive)
        ours = self._exported.calibration
        differences = np.abs(ours.probability(scores) - ours.probability(self._exported.exact["validation"]))
        passed = bool(differences.max() <= F32_TOLERANCE)
        if passed:
            self.kept["f32"] = engine
        return {"passed": passed} | self._on_test(engine, ours)

    def _bfloat16(self) -> dict[str, Any]:
        if not has_bfloat16():
            return _left_out("not measured here")
        return self._judged(OpenVinoEngine(self._folder / FLOAT_FILE, "bf16", None))

    def _int8(self, seed: int) -> dict[str, Any]:
        """Make the candidates, keep the one that lies nearest to float32 on the validation slices, and judge it."""
        slices = draw_calibration(self._parts["train"], seed)
        tried: dict[str, tuple[Path, EngineComparison | None]] = {}
        for name, file in candidates(self._folder / FLOAT_FILE, self._folder, slices, self._alive):
            scores = score(OpenVinoEngine(file, "int8", None), self._parts["validation"].pixels, self._alive)
            tried[name] = file, self._compared(scores, "validation", self._exported.calibration)
        best = min(tried, key=lambda name: tried[name][1].order if tried[name][1] else (np.inf,))  # type: ignore[union-attr]
        target = self._folder / INT8_FILE
        for suffix in (".xml", ".bin"):
            tried[best][0].with_suffix(suffix).rename(target.with_suffix(suffix))
        for name, (file, _) in tried.items():
            if name != best:
                _remove(file)
        found = self._judged(OpenVinoEngine(target, "int8", None))
        if not found["passed"]:
            _remove(target)
        on_validation = {name: one.as_dict() if one else {} for name, (_, one) in tried.items()}
        return found | {"chosen": best, "candidates": on_validation}

    def _judged(self, engine: OpenVinoEngine) -> dict[str, Any]:
        """Calibrate an engine on the validation slices, and keep it if it changes few verdicts there."""
        validation = self._parts["validation"]
        scores = score(engine, validation.pixels, self._alive)
        if not np.isfinite(scores.logit).all():
            return _left_out("it gives scores that are not finite")
        ours = calibrate(scores, validation, self._rule, like=self._exported.calibration)
        there = self._compared(scores, "validation", ours)
        passed = there is not None and there.passes
        if passed:
            self.kept[engine.precision] = engine
            self._exported.engines[engine.name] = ours
        on_validation = {"validation": there.as_dict()} if there else {}
        return {"passed": passed} | self._on_test(engine, ours) | on_validation

    def _on_test(self, engine: Engine, ours: Calibration) -> dict[str, Any]:
        """State how an engine differs on the test slices."""
        test = self._parts["test"]
        found = self._compared(score(engine, test.pixels[self.compared], self._alive), "test", ours)
        return found.as_dict() if found else {}

    def _compared(self, scores: Scores, part: str, ours: Calibration) -> EngineComparison | None:
        exact, labels = self._exported.exact[part], self._parts[part].labels
        if part == "test":
            exact = Scores(exact.logit[self.compared], exact.cam[self.compared])
            labels = labels[self.compared]
        return compare(scores, exact, labels, ours, self._exported.calibration)


def _left_out(reason: str) -> dict[str, Any]:
    return {"passed": False, "reason": reason}


def _remove(file: Path) -> None:
    for suffix in (".xml", ".bin"):
        file.with_suffix(suffix).unlink()


def _write_proof(exported: Exported, reference: Engine, engines: Mapping[str, Engine]) -> None:
    """Write the proof's slices with float32's answers, and state how far each precision may differ from them."""
    slices = proof.draw_slices()
    answers = reference.predict(slices)
    arrays = {"slices": slices} | {name: each for name, each in asdict(answers).items() if each is not None}
    write_proof_file(exported.folder / PROOF_FILE, arrays)
    tolerance = {}
    for precision, floor in FLOORS.items():
        if engine := engines.get(precision):
            found = proof.differences(engine.predict(slices), answers, 1.0, 1.0)
            tolerance[precision] = {name: ROOM * getattr(found, name) + floor for name in ("logit", "distance", "cam")}
    exported.proof = {"slices": len(slices), "seed": proof.SEED, "tolerance": tolerance}
