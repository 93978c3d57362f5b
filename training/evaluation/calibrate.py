"""From a network's logits to probabilities that mean what they say, and to the threshold from which one is positive.

Validation slices come from few groups, and one patient that is all wrong moves the best temperature and threshold far.
Where the groups are told, a value is changed from its plain one (temperature 1, threshold 0.5) only as far as they
agree on it: of all values that are no worse than the best within one standard error, the plainest is taken (the rule of
Breiman et al., Classification and Regression Trees, 1984). The error is the jackknife's, over groups.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from training.config import STEADY_RULE, floor_of

COLDEST, HOTTEST = 0.25, 8.0  # few slices that are all told apart would have any colder temperature than the last
CUTS = 256  # between the best threshold and 0.5 that are looked at


def fit_temperature(logit: ArrayLike, labels: ArrayLike, groups: Sequence[str] | None = None) -> float:
    """The temperature, 0.25 to 8, with the least log loss on labels 0 and 1 [n] (Guo et al., 2017); with `groups` [n],
    the one nearest to 1 within a standard error of it.

    Raises ValueError where there are no slices, or a logit is not finite.
    """
    scores, truth = _paired(logit, labels)
    right = np.where(truth == 1, scores, -scores)

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -right / np.exp(log_temperature)).mean())

    best = float(minimize_scalar(log_loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded").x)
    if groups is None or len(set(groups)) < 2:
        return float(np.exp(best))
    tried = np.linspace(0, best, CUTS)  # from the plainest
    losses = np.array([np.logaddexp(0.0, -right / np.exp(each)) for each in tried])
    worse = losses - losses[-1]
    return float(np.exp(tried[_plainest(worse.mean(1), _left_out(worse, _numbered(groups)))]))


def choose_threshold(
    probability: ArrayLike, labels: ArrayLike, rule: str = "youden", groups: Sequence[str] | None = None
) -> float:
    """The probability from which a slice counts as positive.

    `rule`: "youden" (the largest sensitivity + specificity - 1; Youden, 1950), "youden-1se" (the one nearest to 0.5
    within a standard error of it, by `groups` [n]), or "sensitivity>=X", 0 < X <= 1 (the highest threshold that finds
    at least that share). The first and the last lie midway between two scores, so that a little noise in them moves no
    slice across; of several equally good ones it is the one with the widest room.

    Raises ValueError: an unknown rule, a class of which there is no slice, a score that is not finite.
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
    if rule != STEADY_RULE or groups is None or len(set(groups)) < 2:
        return threshold
    tried = np.linspace(0.5, threshold, CUTS)  # from the plainest
    right = ((scores >= tried[:, None]) == (truth == 1)).astype(np.float64)
    numbers = _numbered(groups)
    classes = [truth == 0, truth == 1]
    if any(len(np.unique(numbers[here])) < 2 for here in classes):
        return threshold
    worse = [right[-1, here] - right[:, here] for here in classes]
    count = int(numbers.max()) + 1
    healthy, ill = (_left_out(each, numbers[here], count) for each, here in zip(worse, classes, strict=True))
    return float(tried[_plainest(worse[0].mean(1) + worse[1].mean(1), healthy + ill)])


def meets_rule(probability: ArrayLike, labels: ArrayLike, rule: str, threshold: float, best: float) -> bool:
    """Return whether a threshold does as well by the rule as `best`, the one that `choose_threshold` gave.

    For a floor of sensitivity: it keeps the floor, and its specificity is not lower. For Youden's rules: its
    sensitivity + specificity is not lower.
    """
    scores, truth = _paired(probability, labels)

    def rates(cut: float) -> tuple[float, float]:
        called = scores >= cut
        return float(called[truth == 1].mean()), float(1 - called[truth == 0].mean())

    (sensitivity, specificity), (best_sensitivity, best_specificity) = rates(threshold), rates(best)
    if (floor := floor_of(rule)) is not None:
        return sensitivity >= floor - 1e-9 and specificity >= best_specificity - 1e-9
    return sensitivity + specificity >= best_sensitivity + best_specificity - 1e-9


def _numbered(groups: Sequence[str]) -> NDArray[np.int64]:
    """Groups [n] as numbers from 0."""
    return np.asarray(np.unique(np.asarray(groups), return_inverse=True)[1], np.int64)


def _left_out(values: NDArray[np.float64], numbers: NDArray[np.int64], count: int = 0) -> NDArray[np.float64]:
    """The means of `values` [t, n] with each group of `numbers` [n] left out: [t, g], at least `count` groups."""
    sums = np.stack([np.bincount(numbers, row, minlength=count) for row in values])
    return np.asarray((values.sum(1, keepdims=True) - sums) / (len(numbers) - np.bincount(numbers, minlength=count)))


def _plainest(worse: NDArray[np.float64], without: NDArray[np.float64]) -> int:
    """The first value that is within one standard error of the last, the best: `worse` [t] says by how much it is
    worse, `without` [t, g] says so with each group left out."""
    error = np.sqrt((without.shape[1] - 1) * without.var(1))
    return int(np.flatnonzero(worse <= error + 1e-12)[0])


def _paired(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[Any]]:
    found, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if found.ndim != 1 or found.shape != truth.shape or not len(found):
        raise ValueError(f"one score and one label for each slice are needed, not {found.shape} and {truth.shape}")
    if not np.isfinite(found).all():
        raise ValueError("there are scores that are not finite")
    return found, truth
