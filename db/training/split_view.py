"""Reads the splits of a dataset for people: the contents of each part, and the leaks."""

from collections import Counter
from typing import Any

from pydantic import Field
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import CLASSES, PARTS
from db.ledger.views import View
from db.models import Dataset, LabelledSlice, Split, SplitRule

GROUPS = "groups"


class SplitView(View):
    """A split into train, validation and test: the classes and groups of each part, and the leaks between parts."""

    id: int
    rule: str
    seed: int
    parts: dict[str, dict[str, int]]
    leaks: dict[str, Any] = Field(description="Count and examples by leak name; empty if nothing leaks.")


def splits_of(s: Session, dataset: Dataset) -> list[SplitView]:
    """Return all splits of a dataset, newest first."""
    splits = list(s.scalars(select(Split).where(Split.dataset_id == dataset.id).order_by(Split.id.desc())))
    if not splits:
        return []
    columns = (LabelledSlice.group, LabelledSlice.label, LabelledSlice.given_part)
    query = select(*columns, func.count()).where(LabelledSlice.dataset_id == dataset.id, LabelledSlice.row.is_not(None))
    counts = [(group, label, part, n) for group, label, part, n in s.execute(query.group_by(*columns))]
    return [_view(split, counts) for split in splits]


def _view(split: Split, counts: list[tuple[str, int | None, str | None, int]]) -> SplitView:
    slices: Counter[tuple[str, str]] = Counter()
    groups: dict[str, set[str]] = {part: set() for part in PARTS}
    for group, label, given, number in counts:
        part = given if split.rule == SplitRule.GIVEN else split.assignment.get(group)
        if part in groups and label is not None:
            slices[part, CLASSES[label]] += number
            groups[part].add(group)
    parts = {
        part: {name: slices[part, name] for name in CLASSES.values()} | {GROUPS: len(groups[part])} for part in PARTS
    }
    return SplitView(id=split.id, rule=split.description, seed=split.seed, parts=parts, leaks=split.leaks)
