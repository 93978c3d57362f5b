"""Schemas of datasets and splits."""

from typing import Any, Literal

from pydantic import Field

from db.ledger.views import Moment
from web.schemas.common import AsGiven, In, Out, Seed

DatasetState = Literal["queued", "building", "ready", "failed"]


class SplitOut(Out):
    """A split into train, validation and test: the classes and groups of each part, and the leaks between parts."""

    id: int
    rule: str
    seed: int
    parts: dict[str, dict[str, int]]
    leaks: dict[str, Any] = Field(description="Count and examples by leak name; empty if nothing leaks.")


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
    splits: list[SplitOut]
    links: dict[str, str]


class DatasetPage(Out):
    """Some datasets, newest first, without their reports."""

    items: list[DatasetOut]
    next_cursor: str | None


class SplitIn(In):
    """How to draw a split."""

    seed: Seed = 7
    groups_as_given: AsGiven = False
