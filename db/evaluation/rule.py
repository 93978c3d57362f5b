"""The rule of the promotion gate. The site check uses the same floors, and the same least number of groups.

A candidate and the champion are measured on the same slices, by the same engine. The candidate is

- refused if its measured sensitivity, specificity or AUC is below the floor. The measured value counts, not the upper
  end of its interval, because with few groups the interval is so wide that any candidate would pass. If a candidate is
  below a floor only by chance, an admin can override the refusal with a reason. That costs less than missed disease;
- refused if it is worse than the champion, and not by chance, in one of four metrics: AUC, accuracy, sensitivity and
  specificity. With four tests, a false alarm is more likely than with one. So Holm's correction keeps the error of all
  four together at 2.5 % (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979);
- otherwise not judged, for lack of evidence, if a class has fewer than 20 groups, or if the candidate or an ancestor
  was trained on more than 1 % of the slices, or on other slices of their groups, or if this cannot be found out because
  a dataset was deleted;
- otherwise passed if the evidence shows that it is at most a margin worse than the champion: in each of the four
  metrics, the whole 95 % interval of the difference is above minus the margin. (This is a test of non-inferiority. All
  four must hold, so no correction is needed: Berger, 1982.) A candidate can pass with a small loss that is certain, if
  the loss is within the margin;
- otherwise not shown: the candidate may be as good, or it may be worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from db import CLASSES
from db.evaluation.result import Metrics, PairedMetric, PairedMetrics
from db.metrics import METRICS, Difference, digits_beside, missing_slice, written, written_interval
from db.models.documents import LargestGroup, Measured

PASSED, REFUSED, NOT_SHOWN = "passed", "refused", "not shown"
NO_EVIDENCE = "not enough evidence"

LEAST_GROUPS = 20  # of each class; with fewer, an interval by resampling groups is too rough
MUCH_FEWER = 0.5  # report if the effective number of groups is below this share of their number
CLEARLY_FEWER = 0.9  # the same, if an interval does not reach its floor
TOLERATED = 0.01  # share of slices that a version may have seen
COMPARED = ("auc", "accuracy", "recall", "specificity")
CHANCE = 0.025  # the chance of refusing an equally good candidate, for all compared metrics together


@dataclass(frozen=True)
class Floors:
    """The values that a version must reach.

    In the gate, the measured values must reach them. In a site check, the lower ends of the intervals must.
    """

    recall: float = 0.85
    specificity: float = 0.80
    auc: float = 0.90


FLOORED = ("recall", "specificity", "auc")


@dataclass(frozen=True)
class Seen:
    """How many slices the candidate or an ancestor was trained on, with the other slices of their groups.

    `unknown`: why this cannot be found out, or "".
    """

    seen: int = 0
    slices: int = 0
    unknown: str = ""

    @property
    def share(self) -> float:
        """Return the share of these slices among all, 0 to 1."""
        return self.seen / self.slices if self.slices else 0.0


@dataclass(frozen=True)
class Ruling:
    """A verdict, and its reasons. Each reason is a line."""

    verdict: str
    reasons: list[str]


def rule(metrics: Metrics, pairs: PairedMetrics, floors: Floors, margin: float, seen: Seen) -> Ruling:
    """Return the verdict on a candidate by the rule above.

    `metrics`: those of the candidate. `pairs`: candidate and champion, by metric.
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
            digits = digits_beside(floor, value)
            reasons.append(f"its {name} of {value:.{digits}f} is below the floor of {floor:.{digits}f}")
    return reasons


def few_groups(groups: Mapping[str, int]) -> list[str]:
    """Return a line for each class with too few groups. `groups`: the number of groups by class."""
    return [
        f"only {count} {'group' if count == 1 else 'groups'} of {name}; at least {LEAST_GROUPS} are needed"
        for name in CLASSES.values()
        if (count := groups.get(name, 0)) < LEAST_GROUPS
    ]


def uneven_groups(metrics: Measured, limit: float = MUCH_FEWER, then: str = "") -> list[str]:
    """Return a line for each class whose effective number of groups is below a share of their number, and what to do.

    `limit`: this share. `then`: the end of the line that says what to do.
    """
    groups, effective = metrics.class_groups, metrics.effective_groups
    lines = [
        f"the {groups[name]:,} groups of {name} have unequal numbers of slices, and count like about"
        f" {effective[name]:.0f} {'group' if round(effective[name]) == 1 else 'groups'} of equal size"
        f"{_largest(metrics.largest_groups.get(name))}"
        for name in CLASSES.values()
        if name in groups and name in effective and effective[name] < limit * groups[name]
    ]
    return [*lines, f"for narrower intervals, use about the same number of slices of each group{then}"] if lines else []


def few_for_margin(metrics: Measured, margin: float) -> list[str]:
    """Return a line if the test part has so few effective groups that an equally good candidate can hardly pass.

    If two models agree on all g groups, the interval of their difference still reaches about 2/g below it.
    """
    if margin <= 0:
        return []
    numbers = {name: metrics.effective_groups.get(name, count) for name, count in metrics.class_groups.items()}
    few = [f"{number:.0f} of {name}" for name, number in numbers.items() if number < 2 / margin]
    if not few:
        return []
    return [
        f"about {2 / margin:.0f} groups of equal size of each class are needed to pass with the margin of {margin:g};"
        f" the test part counts like about {' and '.join(few)}"
    ]


def _largest(group: LargestGroup | None) -> str:
    if group is None:
        return ""
    joined = f" and was joined from {group.joined:,} groups that share slices" if group.joined > 1 else ""
    return f": the largest one has {group.share:.0%} of the slices{joined}"


def _seen(seen: Seen) -> list[str]:
    if seen.unknown:
        return [seen.unknown]
    if seen.share <= TOLERATED:
        return []
    return [
        f"{seen.seen} of {seen.slices} slices are not evidence: they, or other slices of their groups, trained the"
        " candidate or a version that it comes from"
    ]


def _worse(pairs: PairedMetrics, margin: float) -> list[str]:
    """Return a line for each metric that is worse, and not by chance.

    Leave out a metric if the interval of its difference is within the margin.
    """
    tested = [(key, pairs[key]) for key in COMPARED if key in pairs]
    return [
        f"its {METRICS[key].name} is {Difference.WORSE}: the difference is"
        f" {written_interval(pairs[key].low, pairs[key].high, '+')}"
        for key in _rejected([(key, pair.p_lower) for key, pair in tested if pair.p_lower is not None])
        if not _within(pairs[key], margin)
    ]


def _rejected(chances: Sequence[tuple[str, float]]) -> list[str]:
    """Apply Holm's procedure to pairs of a metric and its one-sided p-value. Return the metrics that it rejects."""
    rejected = []
    for place, (key, p) in enumerate(sorted(chances, key=lambda one: one[1])):
        if p > CHANCE / (len(chances) - place):
            break
        rejected.append(key)
    return sorted(rejected, key=COMPARED.index)


def _not_shown(pairs: PairedMetrics, margin: float) -> list[str]:
    """Return a line for each metric that may be worse by more than the margin."""
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
    """Return the compared metric whose interval has the lowest lower end, or None if no metric has an interval."""
    lows = {key: low for key in COMPARED if key in pairs and (low := pairs[key].low) is not None}
    return min(lows, key=lambda key: lows[key]) if lows else None
