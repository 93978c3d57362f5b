"""Measures how close the answers of an exported file are to those of the trained network in float32."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from training.data.slices import Labelled
from training.evaluation.calibrate import choose_threshold, fit_temperature, meets_rule
from training.network.ood_distance import threshold_of
from worker.engines.interface import Scores
from worker.engines.package import probability

F32_TOLERANCE = 1e-3  # of a probability
FLIPPED = 0.005  # share of slices whose label may change in each direction; one slice is always allowed
AUC_TOLERANCE = 0.005  # change of the AUC, up or down
FAR = 99  # percentile of the differences of a probability


@dataclass(frozen=True)
class Calibration:
    """The numbers that turn the scores of an engine into answers: temperature, threshold and distance limit.

    A slice above the distance limit is out of distribution. The limit is None if the network has no distance.
    """

    temperature: float
    threshold: float
    ood: float | None

    def probability(self, scores: Scores) -> NDArray[np.float64]:
        """Return the calibrated probabilities, float64[n]."""
        return probability(scores.logit, self.temperature)


def calibrate(
    scores: Scores, data: Labelled, rule: str, *, plain: float = 1.0, like: Calibration | None = None
) -> Calibration:
    """Calibrate an engine by its scores of the validation slices. `plain`: the temperature that the loss calls for.

    `like`: the calibration of float32. If the rule finds its threshold as good as the best one, that threshold is used.
    Then the engines differ only in their arithmetic.

    Raises ValueError: a class is missing, or a score is not finite.
    """
    temperature = fit_temperature(scores.logit, data.labels, data.units, plain=plain)
    chances = probability(scores.logit, temperature)
    threshold = choose_threshold(chances, data.labels, rule, data.units)
    if like is not None and meets_rule(chances, data.labels, rule, like.threshold, threshold):
        threshold = like.threshold
    return Calibration(temperature, threshold, None if scores.distance is None else threshold_of(scores.distance))


@dataclass(frozen=True)
class EngineComparison:
    """The differences between an engine and float32 on the same slices.

    `to_covid`, `to_non_covid`: how many labels changed to this class. `p99_difference`, `largest_difference`: of the
    calibrated probabilities. `slope`: the slope of the regression of the engine's logits on the float32 logits.
    """

    slices: int
    to_covid: int
    to_non_covid: int
    p99_difference: float
    largest_difference: float
    slope: float
    accuracy_change: float
    auc_change: float

    @property
    def flipped(self) -> int:
        """Return the number of labels that changed."""
        return self.to_covid + self.to_non_covid

    @property
    def order(self) -> tuple[int, float, float]:
        """Return the key that sorts candidates, the closest to float32 first."""
        return self.flipped, self.p99_difference, abs(1 - self.slope)

    @property
    def passes(self) -> bool:
        """Return whether few labels changed in each direction, and the AUC changed little."""
        allowed = max(1, int(FLIPPED * self.slices))
        return max(self.to_covid, self.to_non_covid) <= allowed and abs(self.auc_change) <= AUC_TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers in the form of the manifest."""
        return asdict(self) | {"flipped": self.flipped}


@dataclass(frozen=True)
class PrecisionParity:
    """The comparison of a precision with float32. `passed`: its file is kept. `reason`: why it was not measured.

    `on_validation` decides whether the file is kept. `on_test` is only reported. `chosen`: the int8 candidate.
    """

    passed: bool
    reason: str = ""
    on_test: EngineComparison | None = None
    on_validation: EngineComparison | None = None
    chosen: str = ""
    candidates: Mapping[str, EngineComparison | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison in the form of the manifest."""
        stated: dict[str, Any] = {"passed": self.passed}
        if self.reason:
            stated["reason"] = self.reason
        if self.on_test:
            stated |= self.on_test.as_dict()
        if self.on_validation:
            stated["validation"] = self.on_validation.as_dict()
        if self.chosen:
            by_name = {name: one.as_dict() if one else {} for name, one in self.candidates.items()}
            stated |= {"chosen": self.chosen, "candidates": by_name}
        return stated


def compare(
    scores: Scores, exact: Scores, labels: NDArray[np.integer[Any]], ours: Calibration, theirs: Calibration
) -> EngineComparison | None:
    """Compare the scores of an engine with those of float32 on n slices. Return None if a score is not finite."""
    if not np.isfinite(scores.logit).all():
        return None
    p, q = ours.probability(scores), theirs.probability(exact)
    positive, expected = p >= ours.threshold, q >= theirs.threshold
    differences = np.abs(p - q)
    spread = float(np.var(exact.logit))
    covariance = float(np.mean((scores.logit - scores.logit.mean()) * (exact.logit - exact.logit.mean())))
    return EngineComparison(
        slices=len(p),
        to_covid=int((positive & ~expected).sum()),
        to_non_covid=int((~positive & expected).sum()),
        p99_difference=float(np.percentile(differences, FAR)),
        largest_difference=float(differences.max()),
        slope=covariance / spread if spread else 1.0,
        accuracy_change=float((positive == labels).mean() - (expected == labels).mean()),
        auc_change=float(roc_auc_score(labels, p) - roc_auc_score(labels, q)),
    )
