"""What a model version was made from: those before it, the split it was trained on, and the slices that taught them."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import PARTS, TRAIN
from db.datasets.slices import Placed, part_of, placed_of, without_patient
from db.models import Dataset, ModelVersion, Split
from db.registry.versions import find_version
from db.training.leaks import EXAMPLES, SEEN


def makers_of(s: Session, version: ModelVersion) -> list[ModelVersion]:
    """The versions that this one comes from, as far as they are in this database, the oldest first, and itself."""
    return [*(found for each in version.facts.lineage if (found := find_version(s, each))), version]


def makers_elsewhere(version: ModelVersion) -> list[str]:
    """What an imported version comes from, the oldest first, by the labels of the database that it was made in: here
    they mean nothing, or another version."""
    return version.facts.imported.lineage if version.facts.imported else []


def held_out(s: Session, version: ModelVersion) -> Split | None:
    """The split that the version was trained on, whose test part was left for measuring; None where it is not here."""
    if (named := version.facts.split) is None:
        return None
    split = s.get(Split, named.id)
    return split if split is not None and split.dataset.label == named.dataset else None


def parts_in(s: Session, version: ModelVersion) -> dict[str, str]:
    """The part that slices had for the version or those it comes from, by their pixels' hash: the newest counts.

    What trained any of them stays in `train`. Where a version's dataset is here and its split is not (it was imported),
    all of that dataset may have trained it.
    """
    parts: dict[str, str] = {}
    for maker in makers_of(s, version):
        for pixels, part in _parts_of(s, maker):
            if parts.get(pixels) != TRAIN:
                parts[pixels] = part
    return parts


def _parts_of(s: Session, maker: ModelVersion) -> Iterator[tuple[str, str]]:
    split, dataset_id = _material(s, maker)
    for each in placed_of(s, dataset_id) if dataset_id else []:
        part = part_of(split, each) if split else TRAIN
        if each.pixels_sha256 and part in PARTS:
            yield each.pixels_sha256, part


def _material(s: Session, maker: ModelVersion) -> tuple[Split | None, int | None]:
    """The split that a version was trained on and its dataset, as far as they are here."""
    split = held_out(s, maker)
    return split, split.dataset_id if split else _same_slices(s, maker)


def trained_on(s: Session, version: ModelVersion) -> list[Dataset]:
    """The datasets of this database that the version, or one that it comes from, was trained on."""
    known = {_material(s, maker)[1] for maker in makers_of(s, version)} - {None}
    return list(s.scalars(select(Dataset).where(Dataset.id.in_(known)).order_by(Dataset.id)))


def rows_in(s: Session, version: ModelVersion, dataset: Dataset, parts: Sequence[str]) -> set[int]:
    """Which slices of a dataset lay in these parts for the version or for one that it comes from.

    All do where the split is not here: it was imported.
    """
    rows: set[int] = set()
    for maker in makers_of(s, version):
        split, dataset_id = _material(s, maker)
        if dataset_id == dataset.id:
            rows |= {x.row for x in placed_of(s, dataset.id) if split is None or part_of(split, x) in parts}
    return rows


def _same_slices(s: Session, version: ModelVersion) -> int | None:
    if version.dataset_hash is None:
        return None
    return s.scalar(select(Dataset.id).where(Dataset.sha256 == version.dataset_hash).limit(1))


def find_seen(s: Session, version: ModelVersion, split: Split) -> dict[str, Any]:
    """`seen-by-parent`, as a leak of a split for a run that starts from the version; empty where nothing was seen."""
    seen = seen_in(s, version, split.dataset_id, split, PARTS[1:])
    examples = [f"{each.name} ({part_of(split, each)})" for each in seen[:EXAMPLES]]
    return {SEEN: {"count": len(seen), "examples": examples}} if seen else {}


def seen_in(
    s: Session, version: ModelVersion, dataset_id: int, split: Split | None = None, parts: Sequence[str] = PARTS
) -> list[Placed]:
    """The slices of a dataset, or of parts of a split of it, that trained the version or one that it comes from.

    Those that are near-identical to one of the dataset that did are among them.
    """
    if split is not None and TRAIN not in parts and not split.leaks and _only_split(s, version, split):
        return []  # nothing connects its parts, so there is no need to read its slices
    trained = {pixels for pixels, its in parts_in(s, version).items() if its == TRAIN}
    slices = placed_of(s, dataset_id)
    clusters = {each.cluster for each in slices if each.pixels_sha256 in trained} - {None}
    seen = [each for each in slices if each.pixels_sha256 in trained or each.cluster in clusters]
    return [each for each in seen if split is None or part_of(split, each) in parts]


def _only_split(s: Session, version: ModelVersion, split: Split) -> bool:
    splits = [held_out(s, maker) for maker in makers_of(s, version)]
    return all(each is not None and each.id == split.id for each in splits)


def flattered(
    s: Session, versions: Sequence[ModelVersion], dataset_id: int, split: Split | None = None, part: str | None = None
) -> list[str]:
    """Why the versions' figures may come out too good, a line each for people: slices that they know, or of which no
    patient is known."""
    notes = []
    for version in versions:
        if seen := len(seen_in(s, version, dataset_id, split, PARTS if part is None else (part,))):
            notes.append(f"{version.label}, or a version it comes from, was trained on {seen} of these slices")
        notes += [
            f"what {maker.label} was trained on is not in this database: it may have seen these slices"
            for maker in makers_of(s, version)
            if maker.facts.dataset and held_out(s, maker) is None and _same_slices(s, maker) is None
        ]
        notes += [
            f"what {maker.label} was made from elsewhere ({', '.join(before)}) may have seen these slices"
            for maker in makers_of(s, version)
            if (before := makers_elsewhere(maker))
        ]
    dataset = s.get_one(Dataset, dataset_id)
    if count := without_patient(dataset):
        told = f"no patient is known of {count:,} of {dataset.size:,} slices of {dataset.label}"
        notes.append(f"{told}: figures may come out too good, and chance looks smaller than it is")
    return list(dict.fromkeys(notes))
