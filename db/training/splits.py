"""Splits a dataset into train, validation and test by group, stratified by class. Stores splits with their leaks."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import CLASSES, MAX_INTEGER, PARTS, TEST, TRAIN, VALIDATION
from db.access.audit import Action, record
from db.datasets.datasets import lock_kept
from db.datasets.slices import DatasetError, SplitCandidate, has_given_parts, split_candidates
from db.models import Dataset, ModelVersion, Split, SplitRule, Work
from db.training.leaks import SEEN, find_leaks
from db.training.lineage import find_seen, parts_in, training_split_of

SHARES = {TRAIN: 0.7, VALIDATION: 0.1, TEST: 0.2}  # of the slices
"""The shares of train, validation and test."""

SAME = ("rule", "seed", "after_version_id")
"""The columns that identify a split: two splits of a dataset differ in at least one of them."""


@dataclass
class Unit:
    """Groups that must stay together, because they share identical or near-identical slices.

    `slices`: the number of slices by label. `stays`: the earlier part, which the unit keeps, or None if its part is
    drawn.
    """

    groups: list[str]
    slices: Counter[int]
    stays: str | None = None


@dataclass(frozen=True)
class _Wanted:
    """How to draw a split.

    `after`: the version whose slices keep their parts. `earlier_parts`: the earlier part of each slice, by the hash of
    its pixels. `own`: the existing split of this version, to use again.
    """

    rule: SplitRule
    seed: int
    after: ModelVersion | None = None
    earlier_parts: Mapping[str, str] = field(default_factory=dict)
    own: Split | None = None


@dataclass(frozen=True)
class SplitPlan:
    """The data from which a split is drawn. `kept`: the split, or None if it was never drawn."""

    dataset_id: int
    wanted: _Wanted
    slices: Sequence[SplitCandidate]
    kept: Split | None


def plan_split(
    s: Session,
    dataset: Dataset,
    *,
    seed: int = 7,
    groups_as_given: bool = False,
    after: ModelVersion | None = None,
) -> SplitPlan:
    """Read the data from which to draw a split of a dataset into train, validation and test.

    The same seed gives the same split. Groups that share identical or near-identical slices stay together, except with
    `groups_as_given`. If the CSV names parts, these parts are used, and the seed has no effect. Slices that the version
    `after` has seen stay in their earlier parts, with all slices that must stay together with them. If `after` was
    trained on a split of this dataset that does not leak, that split is used again. If the slices of `after` were
    deleted, only an equal split that was drawn before knows them.

    Raises DatasetError: the dataset is not ready, or the seed is invalid.
    """
    wanted = _wanted(s, dataset, seed, groups_as_given, after)
    kept = wanted.own or _kept(s, dataset.id, _columns(wanted))
    return SplitPlan(dataset.id, wanted, [] if kept else split_candidates(s, dataset.id), kept)


def draw_split(plan: SplitPlan) -> Split:
    """Return the split of a plan. Draw it if it was not drawn before. A new split has no id until `keep_split`.

    Call this outside of a transaction, because drawing takes long, and on SQLite an open transaction can block other
    writers. Raises DatasetError: a part would lack a class.
    """
    return plan.kept or _draw(plan.dataset_id, plan.slices, plan.wanted)


def keep_split(s: Session, drawn: Split) -> Split:
    """Add a drawn split, and return it. If an equal split was added meanwhile, return that one. Raises DatasetGone."""
    if drawn.id is not None:
        return drawn
    lock_kept(s, drawn.dataset_id)
    if kept := _kept(s, drawn.dataset_id, {name: getattr(drawn, name) for name in SAME}):
        return kept
    s.add(drawn)
    s.flush()
    record(s, Action.DATASET_SPLIT, f"dataset {s.get_one(Dataset, drawn.dataset_id).label}", f"split {drawn.id}")
    s.refresh(drawn, ["after"])  # loaded now, for use after the session is closed
    return drawn


def _wanted(
    s: Session,
    dataset: Dataset,
    seed: int,
    groups_as_given: bool,
    after: ModelVersion | None,
) -> _Wanted:
    if not 0 <= seed <= MAX_INTEGER:
        raise DatasetError(f"a seed is a whole number from 0 to {MAX_INTEGER}, not {seed}")
    if dataset.state != Work.DONE:
        raise DatasetError(f"the dataset {dataset.label} is not ready: {dataset.error or 'it is still being built'}")
    if has_given_parts(s, dataset.id):
        return _Wanted(SplitRule.GIVEN, 0)
    own = _own_split(s, after, dataset) if after is not None else None
    earlier_parts = parts_in(s, after) if after is not None and own is None else {}
    rule = SplitRule.AS_GIVEN if groups_as_given else SplitRule.GROUPS
    wanted = _Wanted(rule, seed, after, earlier_parts, own)
    if earlier_parts and any(one.pixels_sha256 in earlier_parts for one in split_candidates(s, dataset.id)):
        return wanted
    if _kept(s, dataset.id, _columns(wanted)):  # drawn before the slices of `after` were deleted
        return wanted
    return replace(wanted, after=None, earlier_parts={})


def _kept(s: Session, dataset_id: int, columns: Mapping[str, Any]) -> Split | None:
    return s.scalar(select(Split).filter_by(dataset_id=dataset_id, **columns))


def _own_split(s: Session, version: ModelVersion, dataset: Dataset) -> Split | None:
    """Return the split that the version was trained on, if it belongs to this dataset and does not leak."""
    own = training_split_of(s, version)
    if own is None or own.dataset_id != dataset.id or own.leaks or find_seen(s, version, own):
        return None
    return own


def _columns(wanted: _Wanted) -> dict[str, Any]:
    after = wanted.after.id if wanted.after else None
    return {"rule": wanted.rule, "seed": wanted.seed, "after_version_id": after}


def _draw(dataset_id: int, slices: Sequence[SplitCandidate], wanted: _Wanted) -> Split:
    if wanted.rule == SplitRule.GIVEN:
        if lost := sum(not one.given_part for one in slices):
            raise DatasetError(f"the split that the CSV gives cannot be used: {lost} slices are in none of its parts")
        parts = {one.row: one.given_part or "" for one in slices}
    else:
        by_cluster = wanted.rule == SplitRule.GROUPS
        drawn = draw(joined_groups(slices, by_cluster, wanted.earlier_parts), wanted.seed)
        parts = {one.row: drawn[one.group] for one in slices}
    _check_classes(slices, parts, wanted)
    by_group: dict[str, set[str]] = defaultdict(set)
    for one in slices:
        by_group[one.group].add(parts[one.row])
    assignment = {group: min(where) if len(where) == 1 else sorted(where) for group, where in by_group.items()}
    leaks = find_leaks(slices, parts)
    return Split(dataset_id=dataset_id, assignment=assignment, leaks=leaks, **_columns(wanted))


def _check_classes(slices: Sequence[SplitCandidate], parts: dict[int, str], wanted: _Wanted) -> None:
    counts: Counter[tuple[str, str]] = Counter((parts[one.row], CLASSES[one.label]) for one in slices)
    lacking = _lacking(counts)
    if not lacking:
        return
    if wanted.rule == SplitRule.GIVEN:
        raise DatasetError(gap_in_given(counts))
    if wanted.after:
        raise DatasetError(
            f"slices that {wanted.after.label} was trained or measured on keep their part, so that"
            f" {', '.join(lacking)} slices. Add new groups (patients), or allow {SEEN} to draw all parts again"
        )
    raise DatasetError(
        f"there are too few separate groups to split this dataset: {', '.join(lacking)} slices; each class needs slices"
        " of three groups (patients) that share no identical or near-identical slice"
    )


def _lacking(counts: Mapping[tuple[str, str], int]) -> list[str]:
    return [f"{part} has no {name}" for part in PARTS for name in CLASSES.values() if not counts.get((part, name))]


def gap_in_given(counts: Mapping[tuple[str, str], int]) -> str:
    """Return which part of a split that the CSV gives lacks a class, and what to do, or "" if every part has both.

    `counts`: the number of slices by part and name of the class.
    """
    if not (lacking := _lacking(counts)):
        return ""
    return (
        f"the split that the CSV gives cannot be used: {', '.join(lacking)} slices. Give each part slices of both"
        " classes, or remove the column split, and make the dataset again"
    )


def joined_groups(
    slices: Sequence[SplitCandidate], by_cluster: bool = True, earlier_parts: Mapping[str, str] = MappingProxyType({})
) -> list[Unit]:
    """Join groups that a cluster of identical or near-identical slices connects, in the order of rows.

    Without `by_cluster`, each group is a unit. `earlier_parts`: the part that each slice had in an earlier split, by
    the hash of its pixels. A unit keeps the part of its slices. If they had several parts, it takes the first of train,
    validation and test, so that no training slice is used for testing.
    """
    leader = leading_groups((one.group, one.cluster if by_cluster else None) for one in slices)
    units: dict[str, Unit] = {}
    for one in slices:
        unit = units.setdefault(leader[one.group], Unit([], Counter()))
        if one.group not in unit.groups[-1:]:
            unit.groups.append(one.group)
        unit.slices[one.label] += 1
        if (part := earlier_parts.get(one.pixels_sha256 or "")) is not None:
            unit.stays = min(part, unit.stays or part, key=PARTS.index)
    return list(units.values())


def leading_groups(slices: Iterable[tuple[str, int | None]]) -> dict[str, str]:
    """Return for each group the group that leads its unit. A unit is all groups that clusters of slices connect.

    `slices`: the group of each slice and its cluster, or None if it is not known. The result has the order of `slices`.
    """
    leader: dict[str, str] = {}

    def find(group: str) -> str:
        while (above := leader[group]) != group:
            leader[group] = leader[above]  # halves the path
            group = leader[group]
        return group

    first_of_cluster: dict[int, str] = {}
    for group, cluster in dict.fromkeys(slices):
        leader.setdefault(group, group)
        if cluster is not None:
            other = first_of_cluster.setdefault(cluster, group)
            leader[find(group)] = find(other)
    return {group: find(group) for group in leader}


def draw(units: Sequence[Unit], seed: int) -> dict[str, str]:
    """Draw the part of each group.

    Units that keep their part come first, then large units before small ones. Units of about the same size (between the
    same two powers of two) are in random order. Each unit goes to the part that is least full in the unit's classes.
    For this comparison, half of the unit counts as if it were in the part already. This is Sainte-Laguë's method for
    seats in a parliament, which favours neither large nor small parts. A choice is not taken if it would leave too few
    units to give each part both classes. StratifiedGroupKFold of scikit-learn is not used, because it cannot keep
    parts.
    """
    order = list(units)
    random.Random(seed).shuffle(order)  # noqa: S311  (a random draw, not a secret)
    order.sort(key=lambda unit: (unit.stays is None, -unit.slices.total().bit_length()))
    totals = sum((unit.slices for unit in units), Counter[int]())
    left = Counter(frozenset(unit.slices) for unit in units)
    have: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    drawn: dict[str, str] = {}
    for unit in order:
        left[frozenset(unit.slices)] -= 1

        def cost(part: str, unit: Unit = unit) -> tuple[int, float]:
            fullness = sum(
                n * (have[part][label] + n / 2) / (SHARES[part] * totals[label]) for label, n in unit.slices.items()
            )
            return _unmet(have | {part: have[part] + unit.slices}, left), fullness

        part = unit.stays or min(PARTS, key=cost)
        have[part] += unit.slices
        drawn |= dict.fromkeys(unit.groups, part)
    return drawn


def _unmet(have: Mapping[str, Counter[int]], left: Mapping[frozenset[int], int]) -> int:
    """Return the least number of classes that the parts will lack, however the remaining units are placed.

    `have`: the slices of each part by class. `left`: the number of units by the classes that they have.
    """
    lacking = [{label for label in CLASSES if not slices[label]} for slices in have.values()]
    both = frozenset(CLASSES)
    needs = [
        max(0, sum(label in of_part for of_part in lacking) - left.get(frozenset([label]), 0)) for label in CLASSES
    ]
    # Count units of one class first. Then a unit of both classes meets two needs of a part that lacks both classes.
    twice = min(*needs, sum(of_part == both for of_part in lacking), left.get(both, 0))
    return max(0, sum(needs) - twice - left.get(both, 0))
