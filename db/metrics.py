"""The metrics of a model version: names, meanings, and the judgement of differences between two versions."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from db import CLASSES


@dataclass(frozen=True)
class Metric:
    """A number from 0 to 1 that says how well a model does.

    `classes`: the labels that must occur for the metric to be defined. It is empty if any slice is enough.
    `has_interval`: False for the calibration error. A resample repeats groups, which makes this error larger, so its
    resamples say nothing about chance.
    """

    key: str
    name: str
    meaning: str
    classes: tuple[int, ...] = ()
    smaller_is_better: bool = False
    has_interval: bool = True

    @property
    def title(self) -> str:
        """Return the name as a heading."""
        return self.name[0].upper() + self.name[1:]


METRICS = {
    metric.key: metric
    for metric in (
        Metric("accuracy", "accuracy", "of all slices, the share that is right"),
        Metric("recall", "sensitivity", "of COVID slices, the share that is found; also called recall", (1,)),
        Metric("specificity", "specificity", "of non-COVID slices, the share that is labelled non-COVID", (0,)),
        Metric("precision", "precision", "of slices labelled COVID, the share that is COVID", (1, 0)),
        Metric("f1", "F1", "harmonic mean of precision and sensitivity", (1, 0)),
        Metric("auc", "AUC", "how often a COVID slice scores above a non-COVID one; 0.5 is chance", (1, 0)),
        Metric("pr_auc", "PR AUC", "mean precision over all sensitivities", (1, 0)),
        Metric("brier", "Brier score", "mean squared error of the probability; 0 is best", smaller_is_better=True),
        Metric("ece", "calibration error", "mean gap between probability and outcome in 15 bins; 0 is best",
               smaller_is_better=True, has_interval=False),
    )
}  # fmt: skip
"""Every metric by its key, in the order in which people read them."""

GROUP_METRICS = ("accuracy", "recall", "specificity", "precision", "auc")
"""The metrics that people see of groups."""

OF_PROBABILITIES = ("brier", "ece")
"""The metrics of probabilities. Groups have none, because the score of a group is not a probability."""

_COUNTS = {"n": "slices", "ood_share": "out of distribution"}  # names of numbers that are shown beside the metrics


def groups_not_counted(left_out: int, no_verdict: int) -> str:
    """Return which groups are not counted, and why, or an empty text."""
    counted = [
        (left_out, "without a slice of the lungs"),
        (no_verdict, "without a verdict, because too many of their slices are out of distribution"),
    ]
    return " and ".join(f"{number:,} {'group' if number == 1 else 'groups'} {why}" for number, why in counted if number)


def missing_slice(key: str) -> str:
    """Return why a metric is undefined, such as `no COVID slice`."""
    return " or ".join(f"no {CLASSES[label]} slice" for label in METRICS[key].classes)


def counted_groups(groups: int | None, named: int | None, write: Callable[[int], str] = "{:,}".format) -> str:
    """Write how many groups count, such as `24 groups`. If groups were joined, write the number before that too.

    `named`: the number of groups before they were joined. A number is None if it is not known.
    """
    count = (named or 0) if groups is None else groups
    if named is None or named == count:
        return f"{write(count)} {'group' if count == 1 else 'groups'}"
    return f"{write(named)} groups; {write(count)} after joining those that share slices"


class Difference(StrEnum):
    """The meaning of the 95 % interval of a difference between two versions."""

    BETTER = "better beyond chance"
    WORSE = "worse beyond chance"
    NONE = "no difference beyond chance"
    UNKNOWN = "too few groups to tell chance"
    NOT_JUDGED = "not judged"


def name_of(key: str) -> str:
    """Return the name, for people, of a metric or of a number that is shown beside metrics."""
    return METRICS[key].name if key in METRICS else _COUNTS.get(key, key.replace("_", " "))


def difference_of(key: str, low: float | None, high: float | None) -> Difference:
    """Judge the first of two versions, by the interval of a metric's difference (first minus second).

    Metrics without an interval are not judged, whatever an older result states.
    """
    if not METRICS[key].has_interval:
        return Difference.NOT_JUDGED
    if low is None or high is None:
        return Difference.UNKNOWN
    if low <= 0 <= high:
        return Difference.NONE
    return Difference.BETTER if (low > 0) != METRICS[key].smaller_is_better else Difference.WORSE


def written(value: float | None, sign: str = "", digits: int = 3) -> str:
    """Write a number such as `0.968`, or a dash if it is undefined. With the sign "+", write a difference: `+0.012`."""
    return "–" if value is None or not math.isfinite(value) else f"{value:{sign}.{digits}f}".replace("-", "−")


def digits_beside(floor: float, *values: float | None) -> int:
    """Return how many digits to write, at least 3, so that no value looks like the floor unless it equals the floor."""
    others = [value for value in values if value is not None and value != floor]
    shown = (digits for digits in range(3, 17) if all(f"{v:.{digits}f}" != f"{floor:.{digits}f}" for v in others))
    return next(shown, 17)


def written_interval(low: float | None, high: float | None, sign: str = "") -> str:
    """Write an interval such as `0.950 to 0.980`, or nothing if it is undefined."""
    return "" if low is None or high is None else f"{written(low, sign)} to {written(high, sign)}"
