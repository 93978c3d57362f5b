"""The rule of the promotion gate, and what it shares with the site check: floors, and how many groups are enough.

A candidate and the champion are measured on the same slices, by the same engine. The candidate is

- refused if its sensitivity, specificity or AUC, as measured, is below its floor. The measured value counts, not the
  upper end of its interval: on few groups the interval is so wide that any candidate would pass. If only chance put
  a candidate below a floor, an admin can override the refusal with a reason. That costs less than missed disease;
- refused if it is worse than the champion beyond chance in one of four metrics: AUC, accuracy, sensitivity and
  specificity. Four questions give chance four opportunities, so Holm's correction keeps all of them together at 2.5 %
  (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979);
- otherwise not judged, for lack of evidence, if a class has fewer than 20 groups, or if more than 1 % of the slices
  trained the candidate or are of groups that did;
- otherwise passed if the evidence shows that it is at most a margin worse than the champion: in each of the four
  metrics, the 95 % interval of the difference lies wholly above minus the margin (a test of non-inferiority; all four
  must hold, so no correction is needed: Berger, 1982). A small loss that is certain, and within the margin, does not
  keep it from passing;
- otherwise not shown: the candidate may be as good, or it may be worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from db import CLASSES
from db.evaluation.result import Metrics, PairedMetric, PairedMetrics
from db.metrics import METRICS, Difference, missing_slice, written, written_interval

PASSED, REFUSED, NOT_SHOWN = "passed", "refused", "not shown"
NO_EVIDENCE = "not enough evidence"

LEAST_GROUPS = 20  # of each class; with fewer, an interval by resampling groups is too rough
TOLERATED = 0.01  # share of slices that a version may have seen
COMPARED = ("auc", "accuracy", "recall", "specificity")
CHANCE = 0.025  # of refusing a candidate that is as good as the champion, for all compared metrics together


@dataclass(frozen=True)
class Floors:
    """What a version must reach: its measured values for the gate, the lower ends of its intervals for a site check."""

    recall: float = 0.85
    specificity: float = 0.80
    auc: float = 0.90


FLOORED = ("recall", "specificity", "auc")


@dataclass(frozen=True)
class Seen:
    """How many of the slices trained the candidate or one of its ancestors, or are of groups that did."""

    seen: int = 0
    slices: int = 0

    @property
    def share(self) -> float:
        """Return the share of the slices, 0 to 1."""
        return self.seen / self.slices if self.slices else 0.0


@dataclass(frozen=True)
class Ruling:
    """A verdict, and why, a line each."""

    verdict: str
    reasons: list[str]


def rule(metrics: Metrics, pairs: PairedMetrics, floors: Floors, margin: float, seen: Seen) -> Ruling:
    """Return the verdict on a candidate by the rule above.

    `metrics`: the candidate's. `pairs`: candidate and champion, by metric.
    """
    if reasons := below_floors(metrics, floors) + _worse(pairs, margin):
        return Ruling(REFUSED, reasons)
    if reasons := few_groups(metrics.class_groups) + _seen(seen):
        return Ruling(NO_EVIDENCE, reasons)
    if reasons := _not_shown(pairs, margin):
        return Ruling(NOT_SHOWN, reasons)
    return Ruling(PASSED, [])


def below_floors(metrics: Metrics, floors: Floors) -> list[str]:
    """Return a line for each floor that the measured values do not reach."""
    reasons = []
    for key in FLOORED:
        value, floor, name = getattr(metrics, key), getattr(floors, key), METRICS[key].name
        if value is None:
            reasons.append(f"its {name} is not known: the test part has {missing_slice(key)}")
        elif value < floor:
            reasons.append(f"its {name} of {value:.3f} is below the floor of {floor:.3f}")
    return reasons


def few_groups(groups: Mapping[str, int]) -> list[str]:
    """Return a line for each class with too few groups. `groups`: their number by class."""
    return [
        f"only {count} {'group' if count == 1 else 'groups'} of {name}; at least {LEAST_GROUPS} are needed"
        for name in CLASSES.values()
        if (count := groups.get(name, 0)) < LEAST_GROUPS
    ]


def _seen(seen: Seen) -> list[str]:
    if seen.share <= TOLERATED:
        return []
    return [
        f"{seen.seen} of {seen.slices} slices are not evidence: they, or other slices of their groups, trained the"
        " candidate or a version that it comes from"
    ]


def _worse(pairs: PairedMetrics, margin: float) -> list[str]:
    """Return a line for each metric that is worse beyond chance, unless its whole interval lies within the margin."""
    tested = [(key, pairs[key]) for key in COMPARED if key in pairs]
    return [
        f"its {METRICS[key].name} is {Difference.WORSE}: the difference is"
        f" {written_interval(pairs[key].low, pairs[key].high, '+')}"
        for key in _rejected([(key, pair.p_lower) for key, pair in tested if pair.p_lower is not None])
        if not _within(pairs[key], margin)
    ]


def _rejected(chances: Sequence[tuple[str, float]]) -> list[str]:
    """Apply Holm's procedure to pairs of metric and one-sided p-value, and return the metrics that it rejects."""
    rejected = []
    for place, (key, p) in enumerate(sorted(chances, key=lambda one: one[1])):
        if p > CHANCE / (len(chances) - place):
            break
        rejected.append(key)
    return sorted(rejected, key=COMPARED.index)


def _not_shown(pairs: PairedMetrics, margin: float) -> list[str]:
    """Return a line for each metric that may be more than the margin worse."""
    reasons = []
    for key in COMPARED:
        pair = pairs.get(key)
        if pair is None or pair.low is None:
            reasons.append(f"the difference in {METRICS[key].name} has no interval")
        elif not _within(pair, margin):
            interval = written_interval(pair.low, pair.high, "+")
            reasons.append(
                f"its {METRICS[key].name} may be more than {margin:g} worse: the difference is"
                f" {written(pair.difference, '+')} ({interval})"
            )
    return reasons


def _within(pair: PairedMetric, margin: float) -> bool:
    return pair.low is not None and pair.low > -margin


def worst_metric(pairs: PairedMetrics) -> str | None:
    """Return the compared metric whose interval reaches lowest, or None if none has an interval."""
    lows = {key: low for key in COMPARED if key in pairs and (low := pairs[key].low) is not None}
    return min(lows, key=lambda key: lows[key]) if lows else None
