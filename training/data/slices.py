"""Loads the slices of a dataset for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from db import PARTS
from db.database import read_scope
from db.datasets.slices import LabelledRow, rows_of
from db.models import Dataset, Split
from db.storage import storage
from db.training.splits import leading_groups
from training.errors import RunFailed


@dataclass(frozen=True)
class Labelled:
    """n slices, uint8[n,s,s], with their labels (uint8[n], 1: COVID), n groups, and n rows or no rows."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    groups: list[str]
    rows: Sequence[LabelledRow] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def series(self) -> list[str | None]:
        """Return the group and series of each slice, or None if the series is not known."""
        return [row.series for row in self.rows] if self.rows else [None] * len(self)

    @property
    def files(self) -> list[tuple[str, int] | None]:
        """Return the hash of the file of each slice and its frame in it, or None if they are not known."""
        return [(row.sha256, row.frame) if row.sha256 else None for row in self.rows] or [None] * len(self)

    @cached_property
    def unit_of(self) -> dict[str, str]:
        """Return the unit of each group, in the order of the slices. Chance acts on units, not on names of groups.

        Groups that share identical or near-identical slices are one unit, because they may be one patient. Without
        rows, each group is a unit.
        """
        if not self.rows:
            return {group: group for group in self.groups}
        return leading_groups((row.group, row.cluster) for row in self.rows)

    @property
    def units(self) -> list[str]:
        """Return the unit of each slice."""
        return [self.unit_of[group] for group in self.groups]

    def some(self, count: int) -> "Labelled":
        """Return at most `count` slices, spread over all slices."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)
        rows = [self.rows[i] for i in chosen] if self.rows else ()
        return Labelled(self.pixels[chosen], self.labels[chosen], [self.groups[i] for i in chosen], rows)


@dataclass(frozen=True)
class Data:
    """The training slices and the validation slices."""

    train: Labelled
    validation: Labelled


def load_parts(dataset: Dataset, split: Split, alive: Callable[[], None] = lambda: None) -> dict[str, Labelled]:
    """Load the three parts of a split: train, validation and test. `alive` is called after each array file.

    Raises RunFailed if a part lacks slices of a class, and storage's FileMissing and FileDamaged.
    """
    with read_scope() as s:
        rows = {name: rows_of(s, dataset.id, split, name) for name in PARTS}
    parts = {name: load_part(dataset, of_part, alive) for name, of_part in rows.items()}
    for name, part in parts.items():
        if len(set(part.labels)) < 2:
            raise RunFailed(f"the {name} part of the split lacks slices of a class: split by another seed")
    return parts


def load_part(dataset: Dataset, rows: Sequence[LabelledRow], alive: Callable[[], None] = lambda: None) -> Labelled:
    """Load the slices of these rows, in order. Check the hash of each array file, and call `alive` after each.

    Raises storage's FileMissing and FileDamaged.
    """
    wanted = np.array([row.row for row in rows], np.int64)
    pixels: NDArray[np.uint8] | None = None
    start = 0
    for sha256 in dataset.arrays:
        part = np.load(storage().verified_path(sha256, alive), mmap_mode="r", allow_pickle=False)
        if pixels is None:
            pixels = np.empty((len(rows), *part.shape[1:]), np.uint8)
        here = np.flatnonzero((wanted >= start) & (wanted < start + len(part)))
        pixels[here] = part[wanted[here] - start]
        start += len(part)
        alive()
    if pixels is None:
        pixels = np.empty((0, 224, 224), np.uint8)
    labels = np.array([row.label for row in rows], np.uint8)
    return Labelled(pixels, labels, [row.group for row in rows], tuple(rows))
