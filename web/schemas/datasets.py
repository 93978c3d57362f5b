"""Schemas of datasets and splits."""

from typing import Any, Literal

from pydantic import Field

from db.ledger.views import Moment
from db.training.split_view import SplitView
from web.schemas.common import AsGiven, In, Out, Seed

DatasetState = Literal["queued", "building", "ready", "failed"]


class DatasetOut(Out):
    """A dataset: an immutable list of labelled slices."""

    id: int
    name: str = Field(description="`name/number`.")
    state: DatasetState
    progress: float
    size: int
    counts: dict[str, int]
    groups: int
    sha256: str | None
    report: dict[str, Any]
    error: str | None
    created_at: Moment
    created_by: str | None
    splits: list[SplitView]
    links: dict[str, str]


class DatasetPage(Out):
    """Some datasets, newest first, without their reports."""

    items: list[DatasetOut]
    next_cursor: str | None


class SplitIn(In):
    """How to draw a split."""

    seed: Seed = 7
    groups_as_given: AsGiven = False
