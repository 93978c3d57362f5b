"""The rules that combine many slices into one verdict.

A rule turns the calibrated probabilities of the slices of a series into one score, from 0 to 1. The score of a study or
patient is the highest score of its series. Often the series of a study are one scan, reconstructed several times. If
their slices were pooled, a few slices would count once for each reconstruction.

If the score is at least the threshold of the rule, the verdict is COVID. Each rule has a name and a version. If the
computation changes, the version changes too. Slices with little lung are left out first.

A finding abstains if its slices are not enough for a verdict. It then has no verdict and no score. Its reason is the
first of these that holds:

- `patient_conflict`, `uid_conflict`: a study names two patients, or over a quarter of the slices are in conflict;
- `patient_unclear`: the files of a patient ID state several birth dates or sexes, or a series without a patient ID
  seems to hold several scans, so the ID or the series may stand for several people;
- `upload_failed`: a file with some of its slices was not unpacked to its end, so nobody knows what is missing;
- `missing`: more than a quarter of the slices were rejected (also for a conflict), quarantined or cancelled;
- `odd_hu`: more than half of the predicted slices have the note `odd_hu`, so their values may not be Hounsfield units;
- `nothing_predicted`, `no_lung`: no slice was predicted, or no predicted slice shows enough lung;
- `ood`: more than a quarter of the slices with lung are out of distribution. By chance alone, one in
  twenty slices is flagged so.

A series that abstains does not decide about its study, and a study that abstains does not decide about its patient. The
slices of a series or study that abstains do not count there. If all series of a study abstain, the study abstains too,
with the first of their reasons in this order. The same holds for the studies of a patient. A single series is enough
for COVID, because no other slices could lower the highest score. But a study or patient does not get the verdict
non-COVID if one of its parts abstains because slices are missing, in conflict or not in Hounsfield units. The disease
may show on these slices.

Up to these limits, slices that are out of distribution are used like the others. Slices with much disease are often
unlike the training slices, so leaving them out would hide the disease.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from db import COVID, NON_COVID, ClassName
from db.models import ModelVersion
from db.models.documents import FindingRule, RuleName
from db.reasons import OF_CONFLICTS, SET_APART
from db.registry.calibration import calibration_of

Array = NDArray[np.float64]

LEAST_LUNG = 0.03
"""The share of the picture that must be lung. The windpipe alone is 1 %, gas in the bowel up to 3 %."""
DEFAULT_RULE: RuleName = "top-k-mean"
DEFAULT_K = 10
MOST_OOD = MOST_MISSING = 0.25
MOST_ODD = 0.5
"""The shares of slices above which a finding abstains."""
LITTLE_LUNG, COPY, UPLOAD_FAILED, PATIENT_UNCLEAR = "little_lung", "copy", "upload_failed", "patient_unclear"
MISSING, ODD_HU = "missing", "odd_hu"
NOTHING_PREDICTED, NO_LUNG, OOD = "nothing_predicted", "no_lung", "ood"
_LOST = (*OF_CONFLICTS, PATIENT_UNCLEAR, UPLOAD_FAILED, MISSING, ODD_HU)
_ORDER = (*_LOST, NOTHING_PREDICTED, NO_LUNG, OOD)


class UnknownRule(Exception):
    """There is no such rule. The message lists the rules that exist."""


@dataclass(frozen=True)
class Rule:
    """A way to compute the score of a series from probabilities, float64[n], n > 0, with the highest first.

    `takes_k`: the score depends on k, the number of highest probabilities that count.
    """

    name: RuleName
    version: Literal[2]
    meaning: str
    score: Callable[[Array, int], float]
    takes_k: bool = False


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(DEFAULT_RULE, 2, "the mean of the k highest probabilities", lambda p, k: float(p[:k].mean()), True),
        Rule("max", 2, "the highest probability", lambda p, _: float(p[0])),
        Rule("mean", 2, "the mean of all probabilities", lambda p, _: float(p.mean())),
        Rule("noisy-or", 2, "the probability that at least one slice is COVID, if slices were independent",
             lambda p, _: -float(np.expm1(np.log1p(-np.minimum(p, 1 - 1e-12)).sum()))),
    )
}  # fmt: skip
"""Every rule by its name."""


@dataclass(frozen=True)
class Evidence:
    """The slices of one series, or the slices that decide about a study or patient.

    `probabilities`: float64[n], in any order, of the slices that were predicted and have enough lung. `ood`: how many
    of these slices are out of distribution, or None if the model does not measure this. `left_out`: the other slices,
    counted by reason code. `odd_hu`: how many predicted slices have the note `odd_hu`. `conflict`: the code of a
    conflict in one of their studies or between them, or None. `upload_failed`: some slices came in a file that was not
    unpacked to its end.
    """

    probabilities: Array
    ood: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    odd_hu: int = 0
    conflict: str | None = None
    upload_failed: bool = False


@dataclass(frozen=True)
class Conclusion:
    """The result of a rule: a score and a verdict, or only the `reason` why it abstains (a code of `db.reasons`)."""

    score: float | None
    verdict: ClassName | None
    reason: str | None = None


def rule_named(name: str) -> Rule:
    """Return the rule with this name. Raises UnknownRule."""
    if name not in RULES:
        raise UnknownRule(f"unknown rule {name!a}; choose one of {', '.join(RULES)}")
    return RULES[name]


def default_rule(threshold: float) -> FindingRule:
    """Return the default rule. `threshold`: the threshold of the model version for slices."""
    return FindingRule(rule=DEFAULT_RULE, version=RULES[DEFAULT_RULE].version, k=DEFAULT_K, threshold=threshold)


def rule_of(version: ModelVersion, engine: str | None = None) -> FindingRule:
    """Return the rule that was tuned for a model version, or the default rule if none was tuned.

    The default rule takes the threshold of the engine named `engine`, or of float32 if `engine` is None.
    """
    if version.finding_rule is not None:
        return version.finding_rule
    return default_rule(version.threshold if engine is None else calibration_of(version, engine)[1])


def score_of(rule: FindingRule, probabilities: Array) -> float:
    """Return the score, 0 to 1, of a series with n > 0 probabilities, float64[n]. Their order does not matter."""
    ranked = np.sort(np.asarray(probabilities, np.float64))[::-1]
    return min(1.0, max(0.0, RULES[rule.rule].score(ranked, rule.k or 1)))


def conclude(rule: FindingRule, evidence: Evidence, parts: Collection[Conclusion] = ()) -> Conclusion:
    """Apply the rule to these slices. If the rule abstains, the conclusion states why.

    `parts`: the conclusions on all series of the study, or on all studies of the patient. `evidence` then has only the
    slices of the parts that give a verdict. `parts` is empty for a single series.
    """
    scores = [part.score for part in parts if part.score is not None]
    reasons = sorted((part.reason for part in parts if part.reason is not None), key=_ORDER.index)
    if evidence.conflict is None and parts and not scores:
        return Conclusion(None, None, reasons[0])
    if (reason := _why_not(evidence)) is not None:
        return Conclusion(None, None, reason)
    score = max(scores) if parts else score_of(rule, evidence.probabilities)
    if score >= rule.threshold:
        return Conclusion(score, COVID)
    if reasons and reasons[0] in _LOST:
        return Conclusion(None, None, reasons[0])
    return Conclusion(score, NON_COVID)


def _why_not(evidence: Evidence) -> str | None:
    """Return the first reason to abstain, or None."""
    used, left_out = len(evidence.probabilities), evidence.left_out
    predicted = used + left_out.get(LITTLE_LUNG, 0)
    conflicting = {code: count for code in OF_CONFLICTS if (count := left_out.get(code, 0))}
    missing = sum(left_out.values()) - sum(left_out.get(code, 0) for code in (LITTLE_LUNG, COPY, *SET_APART))
    most = MOST_MISSING * (predicted + missing)
    if evidence.conflict is not None:
        return evidence.conflict
    if sum(conflicting.values()) > most:
        return max(conflicting, key=lambda code: conflicting[code])
    if evidence.upload_failed:
        return UPLOAD_FAILED
    if missing > most:
        return MISSING
    if evidence.odd_hu > MOST_ODD * predicted:
        return ODD_HU
    if not predicted:
        return NOTHING_PREDICTED
    if not used:
        return NO_LUNG
    return OOD if (evidence.ood or 0) > MOST_OOD * used else None
