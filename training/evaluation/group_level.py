"""Measures metrics on groups (patients): a rule of findings turns the slices of a group into one score.

As with findings, the score of a group is the highest score of its series, and copies of a slice count once. Slices
whose series is not known are taken as one series.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from db.evaluation.result import GroupMetrics, Metrics
from db.findings.rules import LEAST_LUNG, MOST_OOD, score_of
from db.metrics import METRICS, OF_PROBABILITIES
from db.models.documents import FindingRule
from training.evaluation.metrics import with_intervals
from worker.imaging.lungs import lung_fraction

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class ScoredGroups:
    """Groups to which a rule of findings gives a verdict, in the order of their names.

    `labels`: uint8[g], 1 if a slice of the group is COVID. `probabilities`: for each group, an array for each of its
    series, with the slices that have enough lung and are not copies. As in findings, a series with too many slices out
    of distribution has no score. `left_out`: how many other groups have no slice with enough lung. `no_verdict`: how
    many other groups have no series with a score.
    """

    names: list[str]
    labels: NDArray[np.uint8]
    probabilities: list[list[Array]]
    left_out: int = 0
    no_verdict: int = 0

    @classmethod
    def of(
        cls,
        probability: ArrayLike,
        labels: ArrayLike,
        groups: Sequence[str],
        pixels: NDArray[np.uint8],
        series: Sequence[str | None],
        files: Sequence[tuple[str, int] | None],
        ood: NDArray[np.bool_] | None = None,
    ) -> "ScoredGroups":
        """Group n slices. They have probabilities and labels [n], n group names, and prepared pixels uint8[n, s, s].

        `series`: n names of series, or None for slices whose series is not known. `files`: the hash of the file of each
        slice and its frame in it, or None if they are not known. Slices of one series with the same values are copies.
        `ood`: bool[n], which slices are out of distribution, or None if this is not known.
        """
        chances, truth, names = np.asarray(probability, np.float64), np.asarray(labels), np.asarray(groups)
        series_of = np.array([name or "" for name in series], np.str_)
        counts = np.array([lung_fraction(one) >= LEAST_LUNG for one in pixels], np.bool_)
        counts &= ~_are_copies(groups, series, files)
        order = np.argsort(names, kind="stable")
        unique, starts = np.unique(names[order], return_index=True)
        members = np.split(order, starts[1:]) if len(unique) else []
        counted = [(name, rows, rows[counts[rows]]) for name, rows in zip(unique, members, strict=True)]
        counted = [one for one in counted if len(one[2])]
        kept = [(name, rows, _scored_series(used, series_of, ood)) for name, rows, used in counted]
        kept = [one for one in kept if one[2]]
        return cls(
            names=[str(name) for name, _, _ in kept],
            labels=np.array([truth[rows].max() for _, rows, _ in kept], np.uint8),
            probabilities=[[chances[slices] for slices in own] for _, _, own in kept],
            left_out=len(unique) - len(counted),
            no_verdict=len(counted) - len(kept),
        )

    def scores(self, rule: FindingRule) -> Array:
        """Return the score of each group by a rule, float64[g]."""
        return np.array([max(score_of(rule, chances) for chances in own) for own in self.probabilities], np.float64)


def _scored_series(used: Indices, series_of: NDArray[np.str_], ood: NDArray[np.bool_] | None) -> list[Indices]:
    """Return the slices of each series that has a score. `used`: the slices of a group that count."""
    own = [used[series_of[used] == name] for name in np.unique(series_of[used])]
    return [slices for slices in own if ood is None or ood[slices].sum() <= MOST_OOD * len(slices)]


def _are_copies(
    groups: Sequence[str], series: Sequence[str | None], files: Sequence[tuple[str, int] | None]
) -> NDArray[np.bool_]:
    """Return which slices, bool[n], have the group, series, file and frame of an earlier slice."""
    first: dict[object, int] = {}
    keys = zip(groups, series, files, strict=True)
    return np.array([key[-1] is not None and first.setdefault(key, at) != at for at, key in enumerate(keys)], np.bool_)


def measure_groups(
    groups: ScoredGroups,
    rule: FindingRule,
    unit_of: Mapping[str, str] | None = None,
    tuned_slices: int = 0,
    tuned_on: str | None = None,
) -> GroupMetrics:
    """Return the metrics of a rule on groups, with intervals by resampling groups.

    The score of a group is not a probability, so the metrics of probabilities are None. If no group counts, all metrics
    and intervals are None.

    `unit_of`: see `with_intervals`. `tuned_slices`, `tuned_on`: see `GroupMetrics`.
    """
    if groups.names:
        metrics = with_intervals(groups.scores(rule), groups.labels, groups.names, rule.threshold, unit_of=unit_of)
    else:
        metrics = Metrics(n=0, groups=0, named_groups=0, intervals=dict.fromkeys(METRICS))
    intervals = {name: ends for name, ends in metrics.intervals.items() if name not in OF_PROBABILITIES}
    not_measured = dict.fromkeys(OF_PROBABILITIES)
    return GroupMetrics(
        **(dict(metrics) | not_measured | {"intervals": intervals}),
        rule=rule.untuned,
        left_out=groups.left_out,
        no_verdict=groups.no_verdict,
        tuned_slices=tuned_slices,
        tuned_on=tuned_on,
    )
