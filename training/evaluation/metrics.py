"""What probabilities come to against the truth: figures, their intervals over groups, and two models side by side.

Slices of one patient or series are alike, so chance is a matter of groups: whole groups are drawn again with
replacement, and a slice counts as often as its group was drawn. Every figure is computed from such weights, for all
resamples at once; the plain figures are those of one draw that takes each group once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from db.metrics import METRICS

Array = NDArray[np.float64]

BINS = 15  # of probability, equally wide, for the expected calibration error
BLOCK = 250_000  # weights of slices that are held at once: 2 MB, which stays in a cache of the processor
CENTRAL = (2.5, 97.5)  # percentiles: 95 %


def measure(probability: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float | None]:
    """The figures of `METRICS` on probabilities [n] and labels 0 or 1 [n]; positive from `threshold` on.

    `recall` is the sensitivity; `pr_auc` the average precision; `ece` the mean gap, over 15 equally wide bins, between
    the probability of COVID and its share (Naeini et al., 2015). None is what a missing class leaves undefined;
    precision is 0 where nothing is called positive.

    Raises ValueError: no slices, lengths that differ, probabilities outside 0..1, labels other than 0 and 1.
    """
    scored = _Scored.of(probability, labels, threshold)
    return _plain(scored.figures(np.ones((1, scored.size))))


def with_intervals(
    probability: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    threshold: float,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """What `measure` gives, and `n`, `groups`, `confusion_matrix` [[tn, fp], [fn, tp]] and `intervals`.

    `intervals` maps each figure to [low, high], 95 %, by resampling groups; to None where only one group has a class
    that the figure rests on, or where most resamples leave it undefined.

    Raises ValueError as `measure` does, and where `groups` is of another length.
    """
    scored = _Scored.of(probability, labels, threshold)
    index, count = _grouped(groups, scored.size)
    found = [scored.figures(weights) for weights in _resampled(index, count, seed, resamples)]
    several = _on_several_groups(scored, index, count)
    intervals = {
        name: _interval(np.concatenate([one[name] for one in found])) if name in several else None for name in METRICS
    }
    return {
        **_plain(scored.figures(np.ones((1, scored.size)))),
        "n": scored.size,
        "groups": count,
        "confusion_matrix": scored.confusion_matrix(),
        "intervals": intervals,
    }


def compare(
    candidate_probability: ArrayLike,
    candidate_threshold: float,
    champion_probability: ArrayLike,
    champion_threshold: float,
    labels: ArrayLike,
    groups: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, dict[str, float | None]]:
    """Two models on the same slices: by figure `candidate`, `champion`, `difference` (candidate less champion) and the
    95 % interval of the difference, `low` and `high`, where both see the same resampled groups.

    Raises ValueError as `with_intervals` does.
    """
    candidate = _Scored.of(candidate_probability, labels, candidate_threshold)
    champion = _Scored.of(champion_probability, labels, champion_threshold)
    index, count = _grouped(groups, candidate.size)
    drawn: dict[str, list[Array]] = {name: [] for name in METRICS}
    for weights in _resampled(index, count, seed, resamples):
        ours, theirs = candidate.figures(weights), champion.figures(weights)
        for name in METRICS:
            drawn[name].append(ours[name] - theirs[name])
    one = np.ones((1, candidate.size))
    ours_now, theirs_now = _plain(candidate.figures(one)), _plain(champion.figures(one))
    several = _on_several_groups(candidate, index, count)
    return {
        name: _difference(ours_now[name], theirs_now[name], np.concatenate(drawn[name]) if name in several else None)
        for name in METRICS
    }


def _difference(candidate: float | None, champion: float | None, drawn: Array | None) -> dict[str, float | None]:
    known = candidate is not None and champion is not None
    interval = _interval(drawn) if known and drawn is not None else None
    return {
        "candidate": candidate,
        "champion": champion,
        "difference": candidate - champion if candidate is not None and champion is not None else None,
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
    }


@dataclass(frozen=True)
class _Scored:
    """Slices with their scores and truth, and in which order their scores rise."""

    probability: Array
    positive: Array  # 1 where the truth is COVID, else 0
    called: Array  # 1 from the threshold on, else 0
    order: NDArray[np.intp]
    ties: NDArray[np.intp]  # where, in that order, each distinct score begins

    @classmethod
    def of(cls, probability: ArrayLike, labels: ArrayLike, threshold: float) -> "_Scored":
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
        """[[tn, fp], [fn, tp]]."""
        counts = np.bincount((2 * self.positive + self.called).astype(int), minlength=4)
        return [[int(n) for n in row] for row in counts.reshape(2, 2)]

    def figures(self, weights: Array) -> dict[str, Array]:
        """Every figure, float64[B], of slices that weigh `weights`, float64[B, n]; NaN where it is undefined."""
        total = weights.sum(axis=1)
        positives, called, true = (weights @ c for c in (self.positive, self.called, self.positive * self.called))
        negatives = total - positives
        auc, average = self._ranked(weights, positives, negatives)
        absent = _share(np.zeros_like(total), positives)  # NaN where there is no positive slice, else 0
        return {
            "accuracy": _share(total - positives - called + 2 * true, total),
            "recall": _share(true, positives),
            "specificity": _share(negatives - called + true, negatives),
            "precision": _share(true, called, otherwise=0.0) + absent,
            "f1": _share(2 * true, positives + called) + absent,
            "auc": auc,
            "pr_auc": average,
            "brier": _share(weights @ (self.probability - self.positive) ** 2, total),
            "ece": _share(np.abs(weights @ self._gaps()).sum(axis=1), total),
        }

    def _gaps(self) -> Array:
        """Probability less truth of each slice, in the column of its bin: float64[n, 15]."""
        bins = np.minimum((self.probability * BINS).astype(int), BINS - 1)
        gaps = np.zeros((self.size, BINS))
        gaps[np.arange(self.size), bins] = self.probability - self.positive
        return gaps

    def _ranked(self, weights: Array, positives: Array, negatives: Array) -> tuple[Array, Array]:
        """Area under the ROC curve, equal scores counting half, and average precision; both need both classes."""
        sorted_weights = weights[:, self.order]
        truth = self.positive[self.order]
        ill = np.add.reduceat(sorted_weights * truth, self.ties, axis=1)
        well = np.add.reduceat(sorted_weights * (1 - truth), self.ties, axis=1)
        below = np.cumsum(well, axis=1) - well / 2
        auc = _share((ill * below).sum(axis=1), positives * negatives)
        found = np.cumsum(ill[:, ::-1], axis=1)
        alarms = np.cumsum(well[:, ::-1], axis=1)
        precision = _share(found, found + alarms, otherwise=0.0)
        average = _share((ill[:, ::-1] * precision).sum(axis=1), positives)
        return auc, np.where(negatives > 0, average, np.nan)


def _share(part: Array, whole: Array, otherwise: float = np.nan) -> Array:
    return np.divide(part, whole, out=np.full_like(part, otherwise), where=whole > 0)


def _grouped(groups: Sequence[str], size: int) -> tuple[NDArray[np.intp], int]:
    if len(groups) != size:
        raise ValueError(f"there are {len(groups)} groups for {size} slices; each slice needs its own")
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    return index, len(names)


def _on_several_groups(scored: _Scored, index: NDArray[np.intp], groups: int) -> set[str]:
    """The figures that rest on more than one group; of one alone, every resample that has it gives the same."""
    behind = [len(np.unique(index[scored.positive == label])) for label in (0, 1)]
    return {n for n in METRICS if groups > 1 and all(behind[label] > 1 for label in METRICS[n].classes)}


def _resampled(index: NDArray[np.intp], groups: int, seed: int, resamples: int) -> Iterator[Array]:
    """Weights of slices, float64[b, n], of all resamples in blocks: how often each slice's group was drawn."""
    rng = np.random.default_rng(seed)
    block = max(BLOCK // len(index), 1)
    for start in range(0, resamples, block):
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=min(block, resamples - start))
        yield drawn.astype(np.float64)[:, index]


def _interval(drawn: Array) -> list[float] | None:
    defined = drawn[~np.isnan(drawn)]
    if len(defined) * 2 < len(drawn):
        return None
    low, high = np.percentile(defined, CENTRAL)
    return [float(low), float(high)]


def _plain(figures: dict[str, Array]) -> dict[str, float | None]:
    return {name: None if np.isnan(found[0]) else float(found[0]) for name, found in figures.items()}
