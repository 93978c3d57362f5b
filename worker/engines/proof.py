"""Proves an engine before it predicts: runs slices with known float32 answers through it, and compares its answers.

A package holds 32 phantoms with the float32 answers of Keras on the machine that made the package (`proof.npz`). The
package also states how far each precision may differ from these answers. So the proof shows a fault of an engine (a
processor whose int8 saturates, a damaged scale, a broken driver) before the engine gets slices of patients.
"""

import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.registry.calibration import calibration_of
from db.registry.manifest import Package
from db.registry.proof_file import PROOF_FILE, read_proof_file
from worker.engines.interface import Engine, Scores
from worker.engines.package import probability
from worker.engines.processor import read_processor
from worker.phantoms.slices import labelled_slices

SEED, PAIRS = 11, 8  # the phantoms are 8 pairs of patients, with two slices of each patient
FIRST_PAIR = 2_000_000  # far from the pairs that any model was trained on
NOT_STATED = {
    "f32": {"logit": 0.05, "distance": 0.05, "cam": 0.05},
    "bf16": {"logit": 0.15, "distance": 1.0, "cam": 0.2},
    "int8": {"logit": 0.3, "distance": 1.5, "cam": 0.3},
}
"""The tolerances of a package that states none, by the names and in the units of `Differences`. Rounding changes
distances most. This does no harm, because each engine has its own limit for distances."""
MOST_STATED = 5.0
"""A package may state at most so many times these tolerances. Otherwise its maker could switch the proof off."""


@dataclass(frozen=True)
class Proof:
    """n slices, uint8[n, 224, 224], and the float32 answers for them. `source`: the answers' origin, for people."""

    slices: NDArray[np.uint8]
    answers: Scores
    source: str


@dataclass(frozen=True)
class Differences:
    """The largest differences from the float32 answers.

    `logit`: in units of the standard deviation of the float32 logits (at least 1). `distance`: relative to the median
    float32 distance. `cam`: relative to the largest value of the float32 heat maps. `probability`: of calibrated
    probabilities, from 0 to 1.
    """

    logit: float
    distance: float
    cam: float
    probability: float


@dataclass(frozen=True)
class ProofResult:
    """The result of the proof of one engine on this machine.

    `largest_difference`: of a calibrated probability, or None if the engine gave no probability. `seconds`: the time
    that the proof took. `text`: the whole result, for people.
    """

    host: str
    processor: str
    engine: str
    precision: str
    passed: bool
    largest_difference: float | None
    seconds: float
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in the form in which they are stored."""
        return asdict(self)


def draw_slices() -> NDArray[np.uint8]:
    """Draw the 32 phantoms of a proof, uint8[32, 224, 224]. Half of them show lesions."""
    return labelled_slices(SEED, PAIRS, 2, first_pair=FIRST_PAIR).pixels


def read_proof(folder: Path, package: Package) -> Proof | None:
    """Return the proof in the package, or None if there is no proof. Raises db.registry.proof_file.BadProof."""
    if PROOF_FILE not in package.files:
        return None
    arrays = read_proof_file(folder / PROOF_FILE)
    answers = Scores(arrays["logit"], arrays["cam"], arrays.get("distance"))
    return Proof(arrays["slices"], answers, "the package's proof")


def own_proof(exact: Engine) -> Proof:
    """Make a proof for a package without one, from the answers of the package's float32 file on this machine."""
    slices = draw_slices()
    return Proof(slices, exact.predict(slices), "the package's own float32 file, since it carries no proof")


def prove(engine: Engine, proof: Proof, package: Package) -> ProofResult:
    """Run the slices of the proof through an engine, and compare. Use calls of the sizes that the engine will get."""
    started = time.monotonic()
    temperature, _ = calibration_of(package, engine.name)
    scores = [_run(engine, proof.slices, size) for size in engine.proof_sizes]
    by_size = [differences(run, proof.answers, temperature, package.temperature) for run in scores]
    seconds = time.monotonic() - started
    worst = Differences(*(max(getattr(run, name) for run in by_size) for name in Differences.__dataclass_fields__))
    tolerance = tolerance_of(package, engine.precision)
    beyond = [name for name, limit in tolerance.items() if not getattr(worst, name) <= limit]
    largest = worst.probability if np.isfinite(worst.probability) else None
    if beyond:
        faults = ", ".join(f"{name} by {getattr(worst, name):.3g} (at most {tolerance[name]:.3g})" for name in beyond)
        return failed(engine.name, f"it differs from {proof.source}: {faults}", largest, seconds)
    text = f"{engine.name} agrees with {proof.source}: a probability differs by at most {worst.probability:.4f}"
    return result_of(engine.name, True, largest, seconds, text)


def exact_by_itself(engine: Engine) -> ProofResult:
    """Return the result for a float32 engine of a package without a proof. There is nothing to compare with."""
    return result_of(engine.name, True, None, 0.0, f"{engine.name} is used without a proof: the package has none")


def failed(engine: str, why: str, largest: float | None = None, seconds: float = 0.0) -> ProofResult:
    """Return the result for an engine that may not predict here."""
    return result_of(engine, False, largest, seconds, f"{engine} is not used: {why}")


def result_of(engine: str, passed: bool, largest_difference: float | None, seconds: float, text: str) -> ProofResult:
    """Return a result of an engine on this machine."""
    host, processor = socket.gethostname(), read_processor().line
    return ProofResult(
        host, processor, engine, engine.rsplit("-")[-1], passed, largest_difference, round(seconds, 3), text
    )


def _run(engine: Engine, slices: NDArray[np.uint8], size: int) -> Scores:
    """Score all slices in calls of at most `size` slices. If there are fewer slices, repeat them to fill one call."""
    repeated = slices if size <= len(slices) else np.resize(slices, (size, *slices.shape[1:]))
    starts = (
        range(0, len(repeated), size) if size > 1 else range(1)
    )  # a single call is enough to see how one slice is computed
    parts = [engine.predict(repeated[start : start + size]) for start in starts]
    return Scores.join(parts)


def differences(scores: Scores, exact: Scores, temperature: float, exact_temperature: float) -> Differences:
    """Compare an engine's scores with the float32 answers.

    The float32 answers are first repeated or cut to the number of the scores.
    """
    n = len(scores.logit)
    logit, cam = np.resize(exact.logit, n), np.resize(exact.cam, (n, *exact.cam.shape[1:]))
    distance = 0.0
    if exact.distance is not None:
        scale = max(float(np.median(exact.distance)), 1e-6)
        distance = (
            np.inf if scores.distance is None else _largest(scores.distance, np.resize(exact.distance, n)) / scale
        )
    return Differences(
        logit=_largest(scores.logit, logit) / max(float(exact.logit.std()), 1.0),
        distance=distance,
        cam=_largest(scores.cam, cam) / max(float(exact.cam.max()), 1e-3),
        probability=_largest(probability(scores.logit, temperature), probability(logit, exact_temperature)),
    )


def _largest(values: NDArray[Any], exact: NDArray[Any]) -> float:
    """Return the largest absolute difference, or infinity if a value is not finite."""
    largest = np.abs(np.asarray(values, np.float64) - exact).max()
    return float(largest) if np.isfinite(largest) else np.inf


def tolerance_of(package: Package, precision: str) -> dict[str, float]:
    """Return how far a precision may differ from float32, by the field names of `Differences`."""
    usual = NOT_STATED[precision]
    stated = package.proof.tolerance.get(precision) or usual
    return {name: min(stated[name], MOST_STATED * limit) for name, limit in usual.items()}
