"""From a network's logits to probabilities that mean what they say, and to the threshold from which one is positive."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

COLDEST, HOTTEST = 0.25, 8.0  # few slices that are all told apart would have any colder temperature than the last
FLOOR_RULE = "sensitivity>="


def probability(logit: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Probabilities of COVID, float64[n] in 0..1, of logits [n]."""
    return np.asarray(expit(np.asarray(logit, np.float64) / temperature), np.float64)


def fit_temperature(logit: ArrayLike, labels: ArrayLike) -> float:
    """The temperature, 0.25 to 8, with the least log loss on labels 0 and 1 [n] (Guo et al., 2017).

    Raises ValueError where there are no slices, or a logit is not finite.
    """
    scores, truth = _paired(logit, labels)
    right = np.where(truth == 1, scores, -scores)

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -right / np.exp(log_temperature)).mean())

    found = minimize_scalar(log_loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return float(np.exp(found.x))


def choose_threshold(probability: ArrayLike, labels: ArrayLike, rule: str = "youden") -> float:
    """The probability from which a slice counts as positive.

    `rule`: "youden" (the largest sensitivity + specificity - 1; Youden, 1950) or "sensitivity>=X", 0 < X <= 1 (the
    highest threshold that finds at least that share). A threshold lies midway between two scores, so that a little
    noise in them moves no slice across; of several equally good ones it is the one with the widest room.

    Raises ValueError: an unknown rule, a class of which there is no slice, a score that is not finite.
    """
    floor = _floor_of(rule)
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
    return float((edges[chosen] + edges[chosen + 1]) / 2)


def _floor_of(rule: str) -> float | None:
    """The least sensitivity that a rule asks for; None for Youden's. Raises ValueError."""
    if rule == "youden":
        return None
    try:
        floor = float(rule.removeprefix(FLOOR_RULE)) if rule.startswith(FLOOR_RULE) else 0.0
    except ValueError:
        floor = 0.0
    if not 0 < floor <= 1:
        raise ValueError(f'no such rule for a threshold: {rule!r}; there are "youden" and "{FLOOR_RULE}0.95"')
    return floor


def _paired(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[Any]]:
    found, truth = np.asarray(scores, np.float64), np.asarray(labels)
    if found.ndim != 1 or found.shape != truth.shape or not len(found):
        raise ValueError(f"one score and one label for each slice are needed, not {found.shape} and {truth.shape}")
    if not np.isfinite(found).all():
        raise ValueError("there are scores that are not finite")
    return found, truth
