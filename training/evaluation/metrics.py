"""Computes the metrics of probabilities against the true labels, their intervals over groups, and comparisons.

Slices of one patient or series are alike, so chance acts on groups, not on slices. Whole groups are drawn again with
replacement, and a slice counts as often as its group was drawn. Each metric is computed from these weights of slices,
for all resamples at once. The plain metrics use one draw that takes each group once.

If a few groups have most of the slices, these groups decide, and the other groups add little. So the width of an
interval depends on Kish's effective number of groups, not on their count.

`training.evaluation.intervals` derives the interval of a metric from its resamples. The interval of a difference is a
t interval with the standard error of its resamples, because decisions depend on it (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 12 and 13).

Groups in which two models do not differ add no variance, but the models may differ in the next group. So the standard
error of a difference of shares is at least the share of groups without a difference, divided by the effective number
of all groups. If no group differs, this limit is the effect of one differing group. For other metrics, this lower limit
is used only if all resamples are 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from db import CLASSES
from db.evaluation.result import Metrics, PairedMetric
from db.metrics import METRICS
from db.models.documents import LargestGroup
from training.evaluation.intervals import SHARES, TAIL, interval_of

Array = NDArray[np.float64]

BINS = 15  # equally wide bins of probability, for the expected calibration error
BLOCK = 250_000  # weights of slices that are computed at a time; 2 MB fit into a processor's cache
CHANCE_DRAWS = 200  # draws of labels, for the calibration error by chance alone
RESAMPLED = tuple(name for name, metric in METRICS.items() if metric.has_interval)


def measure(probability: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float | None]:
    """Return the metrics of `METRICS` on probabilities [n] and labels 0 or 1 [n]. A slice is positive from `threshold`.

    `recall`: the sensitivity. `pr_auc`: the average precision. `ece`: the mean difference between the probability of
    COVID and its share, over 15 equally wide bins (Naeini et al., 2015). A metric is None if it needs a class that is
    missing. The precision is also None if no slice is positive.

    Raises ValueError: there are no slices, lengths differ, a probability is outside 0..1, or a label is not 0 or 1.
    """
    return ScoredSlices.of(probability, labels, threshold).measured()


def with_intervals(
    probability: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    threshold: float,
    *,
    unit_of: Mapping[str, str] | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Metrics:
    """Return the metrics of `measure` with their 95 % intervals, by resampling groups.

    `unit_of`: the unit of each group (`Labelled.unit_of`), or None if each group is a unit. Groups of the same unit are
    resampled and counted as one group.

    The calibration error has no interval (`Metric.has_interval`). The interval of another metric is None if a class
    that the metric needs has only one group, or if the metric is undefined on most resamples. A metric of all slices
    needs each class that the slices have. The precision also needs positive slices in several groups.

    Raises ValueError as `measure` does, and if `groups` has another length.
    """
    scored = ScoredSlices.of(probability, labels, threshold)
    units = groups if unit_of is None else [unit_of[group] for group in groups]
    index, count = _grouped(units, scored.size)
    drawn = [scored.metrics(weights) for weights in resample_groups(index, count, seed, resamples)]
    several = _on_several_groups(scored, index, count)
    values = scored.measured()
    intervals = dict.fromkeys(METRICS) | {
        name: interval_of(name, values[name], np.concatenate([one[name] for one in drawn]), several.get(name, 1))
        for name in RESAMPLED
    }
    sizes = {
        "n": scored.size,
        "groups": count,
        "named_groups": len(set(groups)),
        "class_groups": count_groups(labels, units),
        "effective_groups": {name: _effective(index, scored.positive == label) for label, name in CLASSES.items()},
        "largest_groups": _largest_groups(scored, index, groups),
        "confusion_matrix": scored.confusion_matrix(),
    }
    return Metrics.model_validate({**values, **sizes, "intervals": intervals})


def count_groups(labels: ArrayLike, groups: ArrayLike) -> dict[str, int]:
    """Return how many groups have a slice of each class. A group with both classes counts twice."""
    truth, names = np.asarray(labels), np.asarray(groups)
    return {name: len(np.unique(names[truth == label])) for label, name in CLASSES.items()}


def chance_calibration_error(probability: ArrayLike, *, seed: int = 0) -> float:
    """Return the mean calibration error by chance alone, with labels that are drawn by the probabilities [n]."""
    p = np.asarray(probability, np.float64)
    bins, rng = _bins(p), np.random.default_rng(seed)
    drawn = (np.bincount(bins, p - (rng.random(len(p)) < p), minlength=BINS) for _ in range(CHANCE_DRAWS))
    return float(np.mean([np.abs(gaps).sum() / len(p) for gaps in drawn]))


def _bins(probability: Array) -> NDArray[np.int64]:
    return np.minimum((probability * BINS).astype(np.int64), BINS - 1)


@dataclass(frozen=True)
class Verdicts:
    """The calibrated probabilities of a model for n slices, float[n]. A slice is positive from `threshold` on."""

    probability: ArrayLike
    threshold: float


def compare(
    first: Verdicts,
    second: Verdicts,
    labels: ArrayLike,
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, PairedMetric]:
    """Compare two models on the same slices, metric by metric. The same groups (or units) are resampled for both.

    The difference in the calibration error has no interval.

    Raises ValueError as `with_intervals` does.
    """
    ours = ScoredSlices.of(first.probability, labels, first.threshold)
    theirs = ScoredSlices.of(second.probability, labels, second.threshold)
    index, count = _grouped(groups, ours.size)
    drawn: dict[str, list[Array]] = {name: [] for name in RESAMPLED}
    for weights in resample_groups(index, count, seed, resamples):
        left, right = ours.metrics(weights), theirs.metrics(weights)
        for name in RESAMPLED:
            drawn[name].append(left[name] - right[name])
    left_now, right_now = ours.measured(), theirs.measured()
    behind, their_behind = (_on_several_groups(one, index, count) for one in (ours, theirs))
    return {
        name: _pair(
            left_now[name],
            right_now[name],
            np.concatenate(drawn.get(name, [np.empty(0)])),
            min(behind.get(name, 1), their_behind.get(name, 1)),
            _share_without_difference(name, ours, theirs, index),
        )
        for name in METRICS
    }


def _share_without_difference(
    name: str, ours: "ScoredSlices", theirs: "ScoredSlices", index: NDArray[np.intp]
) -> float:
    """Return the share of the metric's groups in which both models are right equally often.

    Return 0 if the metric is not a share of slices. `index`, int[n]: the group of each slice.
    """
    if name not in SHARES:
        return 0.0
    if name == "precision":
        counted = (ours.called + theirs.called) > 0
    else:
        counted = np.isin(ours.positive, METRICS[name].classes or (0, 1))
    gained = (ours.called == ours.positive).astype(float) - (theirs.called == theirs.positive)
    by_group = np.bincount(index[counted], gained[counted])[np.unique(index[counted])]
    return float(np.mean(by_group == 0)) if len(by_group) else 0.0


def _pair(
    first: float | None, second: float | None, drawn: Array, groups: float, without_difference: float
) -> PairedMetric:
    """Return a difference with its t interval.

    `drawn`: its resamples. `groups`: how many effective groups the metric depends on. `without_difference`: the share
    of groups in which the models do not differ.
    """
    if first is None or second is None:
        return PairedMetric(first=first, second=second, difference=None, low=None, high=None)
    difference, defined = first - second, drawn[~np.isnan(drawn)]
    if groups < 2 or len(defined) * 2 < len(drawn):
        return PairedMetric(first=first, second=second, difference=difference, low=None, high=None)
    # Resamples of g groups vary as if the variance between groups were divided by g, not by g - 1.
    error = float(np.std(defined)) * np.sqrt(groups / (groups - 1))
    least = (1.0 if error == difference == 0 else without_difference) / groups
    half = -float(stats.t.ppf(TAIL, groups - 1)) * max(error, least)
    p_lower = float(stats.t.cdf(difference / error, groups - 1)) if error > 0 else 0.5 * (1 + np.sign(difference))
    return PairedMetric(
        first=first,
        second=second,
        difference=difference,
        low=max(-1.0, difference - half),
        high=min(1.0, difference + half),
        p_lower=float(p_lower),
    )


@dataclass(frozen=True)
class ScoredSlices:
    """Slices with their scores and true labels, and the indices that sort them by score."""

    probability: Array
    positive: Array  # 1 if the true label is COVID, else 0
    called: Array  # 1 if the score reaches the threshold, else 0
    order: NDArray[np.intp]
    ties: NDArray[np.intp]  # where each distinct score begins, in that order

    @classmethod
    def of(cls, probability: ArrayLike, labels: ArrayLike, threshold: float) -> "ScoredSlices":
        scores, truth = np.asarray(probability, np.float64), np.asarray(labels)
        if scores.ndim != 1 or scores.shape != truth.shape or not len(scores):
            raise ValueError(f"one score and one label for each slice are needed, not {scores.shape} and {truth.shape}")
        if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
            raise ValueError("there are probabilities outside 0 to 1")
        if not np.isin(truth, (0, 1)).all():
            raise ValueError("there are labels other than 0 and 1")
        order = np.argsort(scores, kind="stable")
        ties = np.flatnonzero(np.diff(scores[order], prepend=-1.0))
        return cls(scores, truth.astype(np.float64), (scores >= threshold).astype(np.float64), order, ties)

    @property
    def size(self) -> int:
        return len(self.probability)

    def confusion_matrix(self) -> list[list[int]]:
        """Return [[tn, fp], [fn, tp]]."""
        counts = np.bincount((2 * self.positive + self.called).astype(int), minlength=4)
        return [[int(n) for n in row] for row in counts.reshape(2, 2)]

    def measured(self) -> dict[str, float | None]:
        """Return the metrics of `METRICS`, each slice counted once. A metric is None if it is undefined."""
        once = self.metrics(np.ones((1, self.size)))
        values = {name: None if np.isnan(value[0]) else float(value[0]) for name, value in once.items()}
        gaps = np.bincount(_bins(self.probability), self.probability - self.positive)
        return {**values, "ece": float(np.abs(gaps).sum() / self.size)}

    def metrics(self, weights: Array) -> dict[str, Array]:
        """Return each metric of `RESAMPLED`, float64[B], of slices with `weights`, float64[B, n].

        It is NaN if it is undefined.
        """
        total = weights.sum(axis=1)
        positives, called, true = (weights @ c for c in (self.positive, self.called, self.positive * self.called))
        negatives = total - positives
        auc, average = self._ranked(weights, positives, negatives)
        absent = _share(np.zeros_like(total), positives * negatives)  # NaN if a class has no slice, else 0
        return {
            "accuracy": _share(total - positives - called + 2 * true, total),
            "recall": _share(true, positives),
            "specificity": _share(negatives - called + true, negatives),
            "precision": _share(true, called) + absent,
            "f1": _share(2 * true, positives + called) + absent,
            "auc": auc,
            "pr_auc": average,
            "brier": _share(weights @ (self.probability - self.positive) ** 2, total),
        }

    def _ranked(self, weights: Array, positives: Array, negatives: Array) -> tuple[Array, Array]:
        """Return the area under the ROC curve, in which equal scores count half, and the average precision.

        Both metrics need both classes.
        """
        sorted_weights = weights[:, self.order]
        truth = self.positive[self.order]
        ill = np.add.reduceat(sorted_weights * truth, self.ties, axis=1)
        well = np.add.reduceat(sorted_weights * (1 - truth), self.ties, axis=1)
        below = np.cumsum(well, axis=1) - well / 2
        auc = _share((ill * below).sum(axis=1), positives * negatives)
        hits = np.cumsum(ill[:, ::-1], axis=1)
        alarms = np.cumsum(well[:, ::-1], axis=1)
        precision = _share(hits, hits + alarms, otherwise=0.0)
        average = _share((ill[:, ::-1] * precision).sum(axis=1), positives)
        return auc, np.where(negatives > 0, average, np.nan)


def _share(part: Array, whole: Array, otherwise: float = np.nan) -> Array:
    return np.divide(part, whole, out=np.full_like(part, otherwise), where=whole > 0)


def _grouped(groups: Sequence[str], size: int) -> tuple[NDArray[np.intp], int]:
    if len(groups) != size:
        raise ValueError(f"there are {len(groups)} groups for {size} slices; each slice needs its own")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index, len(names)


def _effective(index: NDArray[np.intp], counted: NDArray[np.bool_]) -> float:
    """Return Kish's effective number of the groups of the slices that count, bool[n]. It is 0 if no slice counts.

    So many groups of equal size would vary as much: (sum of m)² / (sum of m²), for groups of m slices (Kish, Survey
    Sampling, 1965). It equals the number of groups if they have equal numbers of slices.
    """
    sizes = np.bincount(index[counted]).astype(np.float64)
    return float(sizes.sum() ** 2 / max((sizes**2).sum(), 1.0))


def _largest_groups(scored: ScoredSlices, index: NDArray[np.intp], named: Sequence[str]) -> dict[str, LargestGroup]:
    """Return the largest group of each class that has slices. `named`: the n names of groups before they are joined."""
    largest: dict[str, LargestGroup] = {}
    for label, name in CLASSES.items():
        sizes = np.bincount(index[scored.positive == label])
        if len(sizes):
            joined = len(np.unique(np.asarray(named)[index == sizes.argmax()]))
            largest[name] = LargestGroup(share=float(sizes.max() / sizes.sum()), joined=joined)
    return largest


def _on_several_groups(scored: ScoredSlices, index: NDArray[np.intp], groups: int) -> dict[str, float]:
    """Return the metrics that depend on more than one group, each with the effective groups of its rarest class.

    If a metric depends on one group, all resamples with this group are the same. A metric of all slices depends on each
    class that the slices have. The precision also depends on the positive slices. So its number is at most the
    effective number of their groups. Two groups count as 2 even if one has nearly all slices, because a t distribution
    needs a degree of freedom.
    """
    behind = {label: _effective(index, scored.positive == label) for label in (0, 1)}
    present = tuple(label for label, count in behind.items() if count)
    rarest = {name: min(behind[label] for label in metric.classes or present) for name, metric in METRICS.items()}
    rarest["precision"] = min(rarest["precision"], _effective(index, scored.called == 1))
    return {name: max(rarest[name], 2.0) for name in RESAMPLED if rarest[name] > 1 and groups > 1}


def resample_groups(index: NDArray[np.intp], groups: int, seed: int, resamples: int) -> Iterator[Array]:
    """Yield the weights of slices for all resamples, in blocks float64[b, n]: how often the slice's group was drawn."""
    rng = np.random.default_rng(seed)
    block = max(BLOCK // len(index), 1)
    for start in range(0, resamples, block):
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=min(block, resamples - start))
        yield drawn.astype(np.float64)[:, index]
