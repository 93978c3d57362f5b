"""Calibration: chooses the temperature, which turns logits into probabilities, and the threshold for COVID.

Validation slices come from few groups, and one patient with only wrong answers changes the best temperature and
threshold a lot. So each has a plain value. The plain threshold is 0.5, and the plain temperature is the one that the
loss calls for. If the groups are given, all values within one standard error of the best value count as equally good.
Of these values, the one closest to the plain value is chosen (the rule of Breiman et al., Classification and Regression
Trees, 1984). The standard error comes from a jackknife over groups. If one group has all slices of a class, there is no
standard error, and the plain value is chosen.

If all groups are classified correctly, any lower temperature has a lower loss. A lower loss does not show that the
temperature is better, because g groups cannot show an error rate below one in g. So the temperature is lowered only
until the probabilities predict one wrong group.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit

from training.config import STEADY_RULE, floor_of

COLDEST, HOTTEST = 0.25, 8.0  # limits of the temperature; on a few perfectly separated slices the optimum would be 0
CUTS = 256  # values to try between the plain one and the best one


def plain_temperature(q: float, label_smoothing: float) -> float:
    """Return the temperature that corrects the effect of a loss of `training.network.loss` on logits.

    Generalised cross-entropy multiplies logits by 1 / (1 - q). Label smoothing multiplies small logits by
    1 - smoothing. It shrinks large logits more, which a temperature cannot correct.
    """
    return min((1 - label_smoothing) / max(1 - q, 1 / HOTTEST), HOTTEST)


def fit_temperature(
    logit: ArrayLike, labels: ArrayLike, groups: Sequence[str] | None = None, *, plain: float = 1.0
) -> float:
    """Return the temperature, 0.25 to 8, with the lowest log loss for labels 0 and 1 [n] (Guo et al., 2017).

    With `groups` [n], return the temperature closest to `plain` that is within a standard error of the best, and not
    lower than g groups can justify. If a class has only one group, return `plain`.

    Raises ValueError if there are no slices, or a logit is not finite.
    """
    scores, truth = _paired(logit, labels)
    right = np.where(truth == 1, scores, -scores)

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -right / np.exp(log_temperature)).mean())

    best = float(minimize_scalar(log_loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded").x)
    if groups is None:
        return float(np.exp(best))
    if _has_lone_group(truth, groups):
        return plain
    best = max(best, np.log(_coldest(scores, _numbered(groups), plain)))
    tried = np.linspace(np.log(plain), best, CUTS)  # the plainest value comes first
    losses = np.array([np.logaddexp(0.0, -right / np.exp(log_temperature)) for log_temperature in tried])
    worse = losses - losses[-1]
    return float(np.exp(tried[_plainest(worse.mean(1), _left_out(worse, _numbered(groups)))]))


def choose_threshold(
    probability: ArrayLike, labels: ArrayLike, rule: str = "youden", groups: Sequence[str] | None = None
) -> float:
    """Return the probability from which a slice counts as positive.

    `rule` is one of these. "youden": the largest sensitivity + specificity - 1 (Youden, 1950). "youden-1se": the
    threshold closest to 0.5 that is within a standard error of that, by `groups` [n], or 0.5 if a class has one group.
    "sensitivity>=X", 0 < X <= 1: the highest threshold with at least this sensitivity. For "youden" and
    "sensitivity>=X", the threshold is midway between two scores, so that a little noise changes no label. Of several
    equally good thresholds, the one in the widest gap is chosen.

    Raises ValueError: an unknown rule, a class without slices, or a score that is not finite.
    """
    floor = floor_of(rule)
    scores, truth = _paired(probability, labels)
    if not (truth == 1).any() or not (truth == 0).any():
        raise ValueError("a threshold needs slices of both classes")
    values = np.unique(scores)
    edges = np.concatenate([[min(0.0, values[0])], values])  # the cut k lies between edges k and k + 1
    positive, negative = np.sort(scores[truth == 1]), np.sort(scores[truth == 0])
    sensitivity = 1 - np.searchsorted(positive, values) / len(positive)
    false_alarms = 1 - np.searchsorted(negative, values) / len(negative)
    if floor is not None:
        best = np.flatnonzero(sensitivity >= floor - 1e-9)[-1:]
    else:
        youden = sensitivity - false_alarms
        best = np.flatnonzero(youden >= youden.max() - 1e-9)
    room = edges[best + 1] - edges[best]
    chosen = best[int(np.argmax(room))]
    threshold = float((edges[chosen] + edges[chosen + 1]) / 2)
    if rule != STEADY_RULE or groups is None:
        return threshold
    if _has_lone_group(truth, groups):
        return 0.5
    tried = np.linspace(0.5, threshold, CUTS)  # the plainest value comes first
    right = ((scores >= tried[:, None]) == (truth == 1)).astype(np.float64)
    numbers = _numbered(groups)
    classes = [truth == 0, truth == 1]
    worse = [right[-1, here] - right[:, here] for here in classes]
    count = int(numbers.max()) + 1
    healthy, ill = (_left_out(part, numbers[here], count) for part, here in zip(worse, classes, strict=True))
    return float(tried[_plainest(worse[0].mean(1) + worse[1].mean(1), healthy + ill)])


def meets_rule(probability: ArrayLike, labels: ArrayLike, rule: str, threshold: float, best: float) -> bool:
    """Return whether a threshold is as good by the rule as `best`, the result of `choose_threshold`.

    For "sensitivity>=X": the threshold reaches X, and its specificity is not lower than that of `best`. For Youden's
    rules: its sensitivity + specificity is not lower than that of `best`.
    """
    scores, truth = _paired(probability, labels)

    def rates(cut: float) -> tuple[float, float]:
        called = scores >= cut
        return float(called[truth == 1].mean()), float(1 - called[truth == 0].mean())

    (sensitivity, specificity), (best_sensitivity, best_specificity) = rates(threshold), rates(best)
    if (floor := floor_of(rule)) is not None:
        return sensitivity >= floor - 1e-9 and specificity >= best_specificity - 1e-9
    return sensitivity + specificity >= best_sensitivity + best_specificity - 1e-9


def _has_lone_group(truth: NDArray[Any], groups: Sequence[str]) -> bool:
    """Return whether a class has slices of fewer than two groups."""
    numbers = _numbered(groups)
    return any(len(np.unique(numbers[truth == label])) < 2 for label in (0, 1))


def _coldest(scores: NDArray[np.float64], numbers: NDArray[np.int64], plain: float) -> float:
    """Return the temperature, at most `plain`, with which the probabilities predict one wrong group."""

    def expected(log_temperature: float) -> float:
        wrong = expit(-np.abs(scores) / np.exp(log_temperature))
        return float((np.bincount(numbers, wrong) / np.bincount(numbers)).sum())

    ends = np.log(min(COLDEST, plain)), np.log(plain)
    if expected(ends[1]) <= 1:
        return plain
    if expected(ends[0]) >= 1:
        return float(np.exp(ends[0]))
    return float(np.exp(brentq(lambda log_temperature: expected(log_temperature) - 1, *ends)))


def _numbered(groups: Sequence[str]) -> NDArray[np.int64]:
    """Return groups [n] as numbers from 0."""
    return np.asarray(np.unique(np.asarray(groups), return_inverse=True)[1], np.int64)


def _left_out(values: NDArray[np.float64], numbers: NDArray[np.int64], count: int = 0) -> NDArray[np.float64]:
    """Return the means of `values` [t, n] without each group of `numbers` [n] in turn: [t, g], g at least `count`."""
    sums = np.stack([np.bincount(numbers, row, minlength=count) for row in values])
    return np.asarray((values.sum(1, keepdims=True) - sums) / (len(numbers) - np.bincount(numbers, minlength=count)))


def _plainest(worse: NDArray[np.float64], without: NDArray[np.float64]) -> int:
    """Return the index of the first value within one standard error of the last value, which is the best.

    `worse` [t]: by how much each value is worse than the last. `without` [t, g]: the same difference, each time without
    one group.
    """
    error = np.sqrt((without.shape[1] - 1) * without.var(1))
    return int(np.flatnonzero(worse <= error + 1e-12)[0])


def _paired(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[Any]]:
    values, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != truth.shape or not len(values):
        raise ValueError(f"one score and one label for each slice are needed, not {values.shape} and {truth.shape}")
    if not np.isfinite(values).all():
        raise ValueError("there are scores that are not finite")
    return values, truth
