"""Finds what a model version was made from: its ancestors, its training split, and its training slices."""

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db import PARTS, TEST, TRAIN
from db.database import get_engine
from db.datasets.slices import (
    SplitCandidate,
    part_of,
    split_candidates,
)
from db.models import Dataset, ModelVersion, Split
from db.models.documents import FindingRule
from db.registry.versions import find_version, list_versions
from db.training.leaks import EXAMPLES, SEEN, SHARED_GROUPS, Leak

_BY_PIXELS = re.compile(r"near-\d+")  # the name of a group that only pixels show; it means nothing in another dataset


@dataclass(frozen=True)
class Known:
    """Slices that a version may know from its training.

    `seen`: the version or an ancestor was trained on them. `named`: other slices, whose group has the name of a group
    on which the version or an ancestor was trained. They may be of the same patient.
    """

    seen: list[SplitCandidate]
    named: list[SplitCandidate]


@dataclass(frozen=True)
class KnownCounts:
    """How many slices a version may know. `seen`, `named`: as in `Known`.

    `connected`: these, and slices of the test part whose group has other slices in train.
    """

    seen: int
    named: int
    connected: int


Counted = dict[tuple[object, ...], KnownCounts]
_counted: WeakKeyDictionary[Engine, Counted] = WeakKeyDictionary()
"""What `count_known` counted in each database. The counts stay true, because built datasets and splits do not change.
If a dataset is deleted, `count_known` is asked with other sources, or not at all."""


def ancestors_of(s: Session, version: ModelVersion) -> list[ModelVersion]:
    """Return the ancestors of a version that are in this database, oldest first, and then the version itself."""
    return [*(ancestor for label in version.facts.lineage if (ancestor := find_version(s, label))), version]


def ancestors_elsewhere(version: ModelVersion) -> list[str]:
    """Return the labels of an imported version's ancestors, oldest first.

    The labels belong to the database in which the version was made. Here they mean nothing, or another version.
    """
    return version.facts.imported.lineage if version.facts.imported else []


def training_split_of(s: Session, version: ModelVersion) -> Split | None:
    """Return the split that a version was trained on, or None if the split is not in this database.

    The version never saw the test part of this split. The dataset of the split may have been deleted.
    """
    if (named := version.facts.split) is None:
        return None
    split = s.get(Split, named.id)
    return split if split is not None and split.dataset.label == named.dataset else None


def parts_in(s: Session, version: ModelVersion) -> dict[str, str]:
    """Return the part that each slice had when the version and its ancestors were made, by the hash of the pixels.

    If the part changed, the newest version counts. But a slice on which one of them was trained stays in `train`. If
    the dataset of a version is in this database but its split is not, as after an import, all slices of the dataset
    count as `train`.
    """
    parts: dict[str, str] = {}
    for candidate, part in _slices_of(s, version):
        if candidate.pixels_sha256 and parts.get(candidate.pixels_sha256) != TRAIN:
            parts[candidate.pixels_sha256] = part
    return parts


def _slices_of(s: Session, version: ModelVersion) -> Iterator[tuple[SplitCandidate, str]]:
    """Yield the slices with which the version and its ancestors were made, oldest first, each with its part."""
    for ancestor in ancestors_of(s, version):
        split, dataset_id = training_source_of(s, ancestor)
        for candidate in split_candidates(s, dataset_id) if dataset_id else []:
            if (part := part_of(split, candidate) if split else TRAIN) in PARTS:
                yield candidate, part


def groups_in(s: Session, version: ModelVersion, parts: Sequence[str]) -> set[str]:
    """Return the names of the groups that were in these parts when the version or one of its ancestors was made.

    The names are case-folded. Leave out groups that only pixels show, because another dataset may use their names for
    other groups.
    """
    return _names_of(candidate for candidate, part in _slices_of(s, version) if part in parts)


def _names_of(slices: Iterable[SplitCandidate]) -> set[str]:
    """Return the names of the groups. Names that differ only in letter case are one, so they are case-folded."""
    return {name.casefold() for name in {one.group for one in slices} if not _BY_PIXELS.fullmatch(name)}


def training_source_of(s: Session, version: ModelVersion) -> tuple[Split | None, int | None]:
    """Return the split that a version was trained on, and the id of its dataset.

    Each is None if it is not here, or is deleted.
    """
    split = training_split_of(s, version)
    if split is not None and not is_deleted(s, split.dataset_id):
        return split, split.dataset_id
    return None, _same_slices(s, version.dataset_hash)


def is_deleted(s: Session, dataset_id: int) -> bool:
    """Return whether a dataset is deleted now. The session may have loaded its row before that."""
    return s.scalar(select(Dataset.deleted_at).where(Dataset.id == dataset_id)) is not None


def deleted_sources(s: Session, version: ModelVersion) -> list[Dataset]:
    """Return the deleted datasets that the version or an ancestor was trained on.

    Leave out a dataset if another dataset has the same slices. Call this after reading slices: a dataset that it does
    not return was complete when its slices were read.
    """
    lost = [deleted_source_of(s, ancestor) for ancestor in ancestors_of(s, version)]
    return list({dataset.id: dataset for dataset in lost if dataset}.values())


def deleted_source_of(s: Session, version: ModelVersion) -> Dataset | None:
    """Return the deleted dataset that the version was trained on, or None if its slices are here or never were."""
    if training_source_of(s, version) != (None, None):
        return None
    if (split := training_split_of(s, version)) is not None:
        return split.dataset
    return deleted_slices(s, version.dataset_hash)


def deleted_slices(s: Session, dataset_hash: str | None) -> Dataset | None:
    """Return a deleted dataset with this hash, if no other dataset has it."""
    if dataset_hash is None or _same_slices(s, dataset_hash) is not None:
        return None
    return s.scalar(select(Dataset).where(Dataset.sha256 == dataset_hash).limit(1))


def trained_on(s: Session, version: ModelVersion) -> list[Dataset]:
    """Return the datasets that the version or an ancestor was trained on, and that are here and not deleted."""
    ids = {training_source_of(s, ancestor)[1] for ancestor in ancestors_of(s, version)} - {None}
    return list(s.scalars(select(Dataset).where(Dataset.id.in_(ids)).order_by(Dataset.id)))


def rows_in(s: Session, version: ModelVersion, dataset: Dataset, parts: Sequence[str]) -> set[int]:
    """Return the rows of a dataset that were in these parts when the version or one of its ancestors was made.

    If the dataset is here and the split is not, as after an import, return all rows of the dataset.
    """
    rows: set[int] = set()
    for ancestor in ancestors_of(s, version):
        split, dataset_id = training_source_of(s, ancestor)
        if dataset_id == dataset.id:
            candidates = split_candidates(s, dataset.id)
            rows |= {one.row for one in candidates if split is None or part_of(split, one) in parts}
    return rows


def _same_slices(s: Session, dataset_hash: str | None) -> int | None:
    if dataset_hash is None:
        return None
    kept = select(Dataset.id).where(Dataset.sha256 == dataset_hash, Dataset.deleted_at.is_(None))
    return s.scalar(kept.limit(1))


def find_seen(s: Session, version: ModelVersion, split: Split) -> dict[str, Leak]:
    """Return the leak `seen-by-parent` of a split for a run that starts from the version, or {}."""
    seen = known_in(s, version, split.dataset_id, split, PARTS[1:]).seen
    examples = [f"{one.name} ({part_of(split, one)})" for one in seen[:EXAMPLES]]
    return {SEEN: {"count": len(seen), "examples": examples}} if seen else {}


def known_in(
    s: Session, version: ModelVersion, dataset_id: int, split: Split | None = None, parts: Sequence[str] = PARTS
) -> Known:
    """Return the slices of a dataset, or of parts of its split, that the version may know: see `Known`.

    Names connect datasets only if they come from a CSV or folders. The group of a DICOM patient is named after one of
    the patient's studies. The name of this group connects datasets only if both have this study.
    """
    if is_kept_apart(s, version, split, parts):
        return Known([], [])
    trained = [candidate for candidate, part in _slices_of(s, version) if part == TRAIN]
    pixels, names = {one.pixels_sha256 for one in trained} - {None}, _names_of(trained)
    slices = split_candidates(s, dataset_id)
    seen = _alike(slices, pixels)
    rows = {one.row for one in seen}
    named = [one for one in slices if one.group.casefold() in names and one.row not in rows]
    asked = [[one for one in known if split is None or part_of(split, one) in parts] for known in (seen, named)]
    return Known(*asked)


def used_in_making(s: Session, version: ModelVersion, dataset_id: int) -> list[SplitCandidate]:
    """Return the slices of a dataset that were in any part when the version or one of its ancestors was made.

    Also return slices that are near-identical to such a slice of the dataset.
    """
    return _alike(split_candidates(s, dataset_id), parts_in(s, version))


def tuning_dataset(s: Session, rule: FindingRule) -> str | None:
    """Return the hash of the dataset on which a rule was tuned, or None if that dataset is not here, or is deleted."""
    dataset_hash = rule.tuned.dataset_hash if rule.tuned else None
    return dataset_hash if _same_slices(s, dataset_hash) is not None else None


def tuned_on(s: Session, rule: FindingRule, dataset_id: int) -> list[SplitCandidate]:
    """Return the slices of a dataset on which a rule of findings was tuned, and slices of the same groups.

    Groups are the same if they have the same name. Also return slices that are near-identical to a slice on which the
    rule was tuned. If the dataset on which the rule was tuned is not here, or is deleted, return nothing.
    """
    if (source_id := _same_slices(s, tuning_dataset(s, rule))) is None:
        return []
    tuned, slices = split_candidates(s, source_id), split_candidates(s, dataset_id)
    names = _names_of(tuned)
    rows = {one.row for one in _alike(slices, {one.pixels_sha256 for one in tuned} - {None})}
    return [one for one in slices if one.row in rows or one.group.casefold() in names]


def _alike(slices: Sequence[SplitCandidate], pixels: Container[str | None]) -> list[SplitCandidate]:
    """Return the slices with one of these pixels, and the slices in a cluster with one of them."""
    clusters = {one.cluster for one in slices if one.pixels_sha256 in pixels} - {None}
    return [one for one in slices if one.pixels_sha256 in pixels or one.cluster in clusters]


def count_known(
    s: Session, version: ModelVersion, dataset_id: int, split: Split | None = None, part: str | None = None
) -> KnownCounts:
    """Count the slices of a dataset, or of a part of its split, that the version may know.

    Each process counts once, because it reads all slices, and pages ask for the numbers again and again.
    """
    counted = _counted.setdefault(get_engine(), {})
    sources = [training_source_of(s, ancestor) for ancestor in ancestors_of(s, version)]
    source_ids = tuple((source.id if source else None, source_dataset_id) for source, source_dataset_id in sources)
    key = (source_ids, dataset_id, split.id if split else None, part)
    if key not in counted:
        counted[key] = _count_known(s, version, dataset_id, split, part)
    return counted[key]


def _count_known(
    s: Session, version: ModelVersion, dataset_id: int, split: Split | None, part: str | None
) -> KnownCounts:
    known = known_in(s, version, dataset_id, split, PARTS if part is None else (part,))
    rows = {one.row for one in (*known.seen, *known.named)}
    if split is not None and part == TEST and SHARED_GROUPS in split.leaks:
        slices = split_candidates(s, dataset_id)
        groups = {one.group for one in slices if part_of(split, one) == TRAIN}
        rows |= {one.row for one in slices if one.group in groups and part_of(split, one) == TEST}
    return KnownCounts(len(known.seen), len(known.named), len(rows))


def known_in_test(s: Session, version: ModelVersion, split: Split) -> int:
    """Count the slices in a split's test part that the version may know.

    The version may know a slice if the version or an ancestor was trained on it, or on a group with the name of its
    group. The version may also know a slice if other slices of its group are in train.
    """
    return count_known(s, version, split.dataset_id, split, TEST).connected


def candidate_number(s: Session, version: ModelVersion) -> int:
    """Return the place of a version among the versions that were trained on its split. The oldest is number 1."""
    same = [one.id for one in list_versions(s) if one.facts.split == version.facts.split]
    return sum(one <= version.id for one in same)


def is_kept_apart(s: Session, version: ModelVersion, split: Split | None, parts: Sequence[str]) -> bool:
    """Return whether no slice of these parts can be known, because nothing connects the parts of the split.

    Then no slice needs to be read, and the dataset may be deleted.
    """
    return split is not None and TRAIN not in parts and not split.leaks and _only_split(s, version, split)


def _only_split(s: Session, version: ModelVersion, split: Split) -> bool:
    splits = [training_split_of(s, ancestor) for ancestor in ancestors_of(s, version)]
    return all(one is not None and one.id == split.id for one in splits)
