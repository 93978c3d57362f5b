"""Reads the probabilities along a series in anatomical order. Neighbours are combined into bars that can be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.findings.rules import LEAST_LUNG
from db.models import Job, Prediction, Slice
from db.series.geometry import placed_series

MOST_BARS = 120
Kind = str
POSITIVE, NEGATIVE, OOD, LITTLE_LUNG, NOTHING = "positive", "negative", "ood", "little-lung", "nothing"


@dataclass(frozen=True)
class Bar:
    """A bar, which stands for one or more neighbouring slices of a series.

    `probability` and `kind` are those of the slice that `_highest` chooses. `probability` is None if none of the slices
    was predicted.
    """

    probability: float | None
    kind: Kind


@dataclass(frozen=True)
class Ribbon:
    """A series in the order of its slices.

    `placed`: whether they run from the feet to the head. If not, they follow their locations, numbers and names.
    `slices`, `predicted`: how many slices there are, and how many of them were predicted. `positive`: how many were
    predicted as COVID, without slices that are out of distribution or show little lung. `highest`: the probability of
    the slice that `_highest` chooses, and `highest_at`: its place, from 1. Both are None if no slice was predicted.
    """

    bars: list[Bar]
    placed: bool
    slices: int
    predicted: int
    positive: int
    highest: float | None
    highest_at: int | None


def ribbons(s: Session, job: Job, series_ids: Sequence[int]) -> dict[int, Ribbon]:
    """Return the ribbons of these series of a job, by series id. A series without slices has no ribbon."""
    if not series_ids:
        return {}
    columns = (Slice.series_id, Prediction.probability, Prediction.positive, Prediction.ood, Slice.lung_fraction)
    of_its_version = (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
    unranked = Slice.series_rank.is_(None)  # databases differ in where NULL sorts
    order = (Slice.series_id, unranked, Slice.series_rank, Slice.instance_number, Slice.name_key, Slice.frame, Slice.id)
    query = select(*columns).outerjoin(Prediction, of_its_version)
    # With `job_id` as a second condition, SQLite would go through all slices of the job.
    rows = s.execute(query.where(Slice.series_id.in_(series_ids)).order_by(*order))
    placed = placed_series(s, series_ids)
    return {
        series_id: _ribbon([_bar(*row[1:]) for row in own], series_id in placed)
        for series_id, own in groupby(rows, lambda row: row[0])
        if series_id is not None
    }


def _bar(probability: float | None, positive: bool | None, ood: bool | None, lung: float | None) -> Bar:
    if probability is None:
        return Bar(None, NOTHING)
    if lung is not None and lung < LEAST_LUNG:
        return Bar(probability, LITTLE_LUNG)
    return Bar(probability, OOD if ood else POSITIVE if positive else NEGATIVE)


def _ribbon(slices: list[Bar], placed: bool) -> Ribbon:
    count = min(len(slices), MOST_BARS)
    cuts = [len(slices) * i // count for i in range(count + 1)]
    bars = [_highest(slices[start:end]) for start, end in pairwise(cuts)]
    chances = [one.probability for one in slices if one.probability is not None]
    top = _highest(slices)
    return Ribbon(
        bars=bars,
        placed=placed,
        slices=len(slices),
        predicted=len(chances),
        positive=sum(one.kind == POSITIVE for one in slices),
        highest=top.probability,
        highest_at=slices.index(top) + 1 if chances else None,
    )


def _highest(slices: list[Bar]) -> Bar:
    """Return the slice with the highest probability. Choose one with little lung only if no other was predicted."""
    return max(slices, key=lambda one: (one.kind not in (LITTLE_LUNG, NOTHING), one.probability or 0.0))
