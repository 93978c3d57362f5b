"""Labelled datasets for tests, as a worker leaves them: rows, groups, and prepared slices in storage."""

import hashlib
import io
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from db.database import session_scope
from db.models import Dataset, LabelledSlice, Split, SplitRule, Work
from db.storage import storage
from db.training import dataset_deletion, splits
from worker.engines.fake import expected_logit


def slices(count: int, seed: int = 0) -> np.ndarray:
    """Slices of their own pixels, uint8[count, 224, 224]."""
    small = np.random.default_rng(seed).integers(32, 256, (count, 7, 7), dtype=np.uint8)
    return small.repeat(32, axis=1).repeat(32, axis=2)


def add_dataset(name: str = "site", count: int = 60, groups: int = 12, *, wrong: int = 0, seed: int = 0) -> Dataset:
    """A dataset whose labels the fake engine tells rightly but for the first `wrong` of each class and group.

    Slices come as group by group; a group has one class. Two array files hold them.
    """
    pixels = slices(4 * count, seed)
    called = np.array([expected_logit(each) >= 0 for each in pixels])
    ill, well = list(pixels[called]), list(pixels[~called])
    rows, kept = [], []
    for row in range(count):
        group = row * groups // count
        mistaken = row % (count // groups) < wrong
        kept.append((ill if (group % 2 == 1) != mistaken else well).pop())
        rows.append((group % 2, f"{name}-{group}"))
    arrays = [storage().put(_npy(np.stack(part))) for part in (kept[: count // 2], kept[count // 2 :])]
    with session_scope() as s:
        dataset = Dataset(name=name, number=1, sources=[], state=Work.DONE, size=count, arrays=arrays)
        s.add(dataset)
        s.flush()
        for row, (label, group) in enumerate(rows):
            digest = hashlib.sha256(kept[row].tobytes()).hexdigest()
            s.add(
                LabelledSlice(
                    dataset_id=dataset.id, ordinal=row, name=f"{row}.png", row=row, label=label, group=group,
                    sha256=digest, pixels_sha256=digest,
                )
            )  # fmt: skip
    return dataset


def split_of(s: Session, dataset: Dataset, **how: Any) -> Split:
    """Draw a split and keep it, or find it."""
    return splits.keep_split(s, splits.draw_split(splits.plan_split(s, dataset, **how)))


def new_split(dataset_id: int, assignment: dict[str, str], *, rule: str = SplitRule.GROUPS, seed: int = 7) -> Split:
    """A split that is not in the database yet, with the usual shares and no leaks."""
    return Split(dataset_id=dataset_id, rule=rule, seed=seed, assignment=assignment, leaks={})


def add_split(dataset: Dataset, groups: int = 12, *, seed: int = 7) -> Split:
    """A split that puts the second half of the groups into the test part; validation is empty."""
    parts = {f"{dataset.name}-{group}": "test" if group >= groups // 2 else "train" for group in range(groups)}
    with session_scope() as s:
        split = new_split(dataset.id, parts, seed=seed)
        s.add(split)
    return split


def delete_dataset(dataset: Dataset) -> None:
    """Delete a dataset, and erase it as the sweeper does."""
    with session_scope() as s:
        dataset_deletion.delete_dataset(s, s.get_one(Dataset, dataset.id), "ann")
    erasing = True
    while erasing:
        with session_scope() as s:
            erasing = dataset_deletion.remove_some(s)


def _npy(pixels: np.ndarray) -> bytes:
    packed = io.BytesIO()
    np.save(packed, pixels)
    return packed.getvalue()
