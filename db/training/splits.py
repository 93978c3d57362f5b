"""Splits of a dataset into train, validation and test: drawn by group, stratified by class, stored with their leaks."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import CLASSES, MAX_INTEGER, PARTS
from db.database import lock_row
from db.datasets.slices import DatasetError, Placed, has_given_parts, placed_of
from db.models import Dataset, ModelVersion, Split, SplitRule, Work
from db.models.datasets import FRACTIONS
from db.training.leaks import SEEN, find_leaks
from db.training.lineage import find_seen, held_out, parts_in

Fractions = tuple[float, float, float]
"""The shares of train, validation and test."""


@dataclass
class Unit:
    """Groups that must stay together, since slices of theirs are identical or near-identical; slices by label.

    `stays`: the part that it is not drawn for, since it had it before.
    """

    groups: list[str]
    slices: Counter[int]
    stays: str | None = None


@dataclass(frozen=True)
class _Wanted:
    """How to draw a split. `after`: slices of this version's split stay in the parts that they had, `known` by the hash
    of their pixels. `own`: an existing split to use again."""

    rule: SplitRule
    seed: int
    fractions: Fractions
    after: ModelVersion | None = None
    known: Mapping[str, str] = field(default_factory=dict)
    own: Split | None = None


def split_of(
    s: Session,
    dataset: Dataset,
    *,
    seed: int = 7,
    as_given: bool = False,
    fractions: Fractions = FRACTIONS,
    after: ModelVersion | None = None,
) -> Split:
    """The split of a dataset into train, validation and test; made at the first asking, the same for the same seed.

    Groups that share identical or near-identical slices stay together, unless they are to be taken `as_given`. Where
    the CSV named a part for each slice that is the split, whatever the seed. What the version `after` knows stays in
    the parts that it had, with all that must stay with it: on the dataset of its own split that is the split again.
    Needs a writing transaction. Raises DatasetError: the dataset is not ready, a seed or fractions that are none, or a
    part would lack a class.
    """
    lock_row(s, Dataset, dataset.id)
    wanted = _wanted(s, dataset, seed, as_given, fractions, after)
    return _made(s, dataset, wanted) or _make(s, dataset, wanted)


def find_split(
    s: Session, dataset: Dataset, *, seed: int = 7, as_given: bool = False, after: ModelVersion | None = None
) -> Split | None:
    """The split that `split_of` gives, if it is made already; it only reads. Raises DatasetError as that does."""
    return _made(s, dataset, _wanted(s, dataset, seed, as_given, FRACTIONS, after))


def _wanted(
    s: Session,
    dataset: Dataset,
    seed: int,
    as_given: bool,
    fractions: Fractions,
    after: ModelVersion | None,
) -> _Wanted:
    if not 0 <= seed <= MAX_INTEGER:
        raise DatasetError(f"a seed is a whole number from 0 to {MAX_INTEGER}, not {seed}")
    if dataset.state != Work.DONE:
        raise DatasetError(f"the dataset {dataset.label} is not ready: {dataset.error or 'it is still being built'}")
    if min(fractions) <= 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise DatasetError("the fractions of train, validation and test are three numbers above 0 that sum to 1")
    if has_given_parts(s, dataset.id):
        return _Wanted(SplitRule.GIVEN, 0, FRACTIONS)
    own = _own_split(s, after, dataset) if after is not None else None
    known = parts_in(s, after) if after is not None and own is None else {}
    if not known or not any(each.pixels_sha256 in known for each in placed_of(s, dataset.id)):
        after, known = None, {}
    rule = SplitRule.AS_GIVEN if as_given else SplitRule.GROUPS
    return _Wanted(rule, seed, fractions, after, known, own)


def _made(s: Session, dataset: Dataset, wanted: _Wanted) -> Split | None:
    return wanted.own or s.scalar(select(Split).filter_by(dataset_id=dataset.id, **_columns(wanted)))


def _own_split(s: Session, version: ModelVersion, dataset: Dataset) -> Split | None:
    """The split that the version was trained on, if it is of this dataset and nothing is wrong with it."""
    own = held_out(s, version)
    if own is None or own.dataset_id != dataset.id or own.leaks or find_seen(s, version, own):
        return None
    return own


def _columns(wanted: _Wanted) -> dict[str, Any]:
    train, validation, test = wanted.fractions
    shares = {"train_share": train, "validation_share": validation, "test_share": test}
    after = wanted.after.id if wanted.after else None
    return {"rule": wanted.rule, "seed": wanted.seed, "after_version_id": after, **shares}


def _make(s: Session, dataset: Dataset, wanted: _Wanted) -> Split:
    slices = placed_of(s, dataset.id)
    if wanted.rule == SplitRule.GIVEN:
        if lost := sum(not each.given_part for each in slices):
            raise DatasetError(f"the split that the CSV gives cannot be used: {lost} slices are in none of its parts")
        parts = {each.row: each.given_part or "" for each in slices}
    else:
        by_cluster = wanted.rule == SplitRule.GROUPS
        drawn = draw(joined_groups(slices, by_cluster, wanted.known), wanted.seed, wanted.fractions)
        parts = {each.row: drawn[each.group] for each in slices}
    _check_classes(slices, parts, wanted)
    by_group: dict[str, set[str]] = defaultdict(set)
    for each in slices:
        by_group[each.group].add(parts[each.row])
    assignment = {group: min(where) if len(where) == 1 else sorted(where) for group, where in by_group.items()}
    leaks = find_leaks(slices, parts)
    split = Split(dataset_id=dataset.id, assignment=assignment, leaks=leaks, **_columns(wanted))
    s.add(split)
    s.flush()
    s.refresh(split, ["after"])  # for where no session is open
    return split


def _check_classes(slices: Sequence[Placed], parts: dict[int, str], wanted: _Wanted) -> None:
    counts = Counter((parts[each.row], each.label) for each in slices)
    lacking = [f"{part} has no {name}" for part in PARTS for label, name in CLASSES.items() if not counts[part, label]]
    if not lacking:
        return
    if wanted.rule == SplitRule.GIVEN:
        raise DatasetError(f"the split that the CSV gives cannot be used: {', '.join(lacking)} slices")
    if wanted.after:
        raise DatasetError(
            f"slices that {wanted.after.label} was trained or measured on keep their part, and so {', '.join(lacking)}"
            f" slices. Add new groups (patients), or allow {SEEN} to draw all parts anew"
        )
    raise DatasetError(
        f"there are too few separate groups to split this dataset: {', '.join(lacking)} slices; each class needs slices"
        " of three groups (patients) that share no identical or near-identical slice"
    )


def joined_groups(
    slices: Sequence[Placed], by_cluster: bool = True, known: Mapping[str, str] = MappingProxyType({})
) -> list[Unit]:
    """Groups joined wherever a cluster of identical or near-identical slices connects them, in the order of rows; each
    alone where not `by_cluster`. A unit stays where its slices were in `known`, part by pixels' hash: of several parts
    in the first, so that nothing is tested on that training saw or went by."""
    leader: dict[str, str] = {}

    def find(group: str) -> str:
        while (above := leader.setdefault(group, group)) != group:
            leader[group] = leader[above]  # halves the path
            group = leader[group]
        return group

    first_of_cluster: dict[int, str] = {}
    for each in slices:
        if by_cluster and each.cluster is not None:
            other = first_of_cluster.setdefault(each.cluster, each.group)
            leader[find(each.group)] = find(other)
    units: dict[str, Unit] = {}
    for each in slices:
        unit = units.setdefault(find(each.group), Unit([], Counter()))
        if each.group not in unit.groups[-1:]:
            unit.groups.append(each.group)
        unit.slices[each.label] += 1
        if (part := known.get(each.pixels_sha256 or "")) is not None:
            unit.stays = min(part, unit.stays or part, key=PARTS.index)
    return list(units.values())


def draw(units: Sequence[Unit], seed: int, fractions: Fractions) -> dict[str, str]:
    """The part of each group. Large units go first, each to the part that is least full in its classes, the unit
    counted by half (Sainte-Laguë's rule of seats, which favours neither large nor small parts).

    Units of about one size (a power of two) are in random order. Where the units of a class run short, a part that has
    none of it goes first. Units that stay where they were come before all others.
    """
    order = list(units)
    random.Random(seed).shuffle(order)  # noqa: S311  (a drawing, no secret)
    order.sort(key=lambda unit: (unit.stays is None, -unit.slices.total().bit_length()))
    totals = sum((unit.slices for unit in units), Counter[int]())
    left = Counter(label for unit in units for label in unit.slices)
    have: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    share = dict(zip(PARTS, fractions, strict=True))
    drawn: dict[str, str] = {}
    for unit in order:

        def fullness(part: str, unit: Unit = unit) -> float:
            return sum(
                n * (have[part][label] + n / 2) / (share[part] * totals[label]) for label, n in unit.slices.items()
            )

        lacking = [part for part in PARTS if any(_short(label, part, have, left) for label in unit.slices)]
        part = unit.stays or min(lacking or PARTS, key=fullness)
        have[part] += unit.slices
        left.subtract(dict.fromkeys(unit.slices, 1))
        drawn |= dict.fromkeys(unit.groups, part)
    return drawn


def _short(label: int, part: str, have: dict[str, Counter[int]], left: Counter[int]) -> bool:
    """Whether this part has none of a class of which just enough units are left for the parts without it."""
    return not have[part][label] and left[label] <= sum(not have[other][label] for other in PARTS)
