"""The slices of a dataset as training takes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from db import PARTS
from db.database import read_scope
from db.datasets.slices import Row, rows_of
from db.models import Dataset, Split
from db.storage import storage


@dataclass(frozen=True)
class Labelled:
    """Slices with their labels (1: COVID), groups and rows: uint8[n,s,s], uint8[n], n strings, n rows or none."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    groups: list[str]
    rows: Sequence[Row] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    def some(self, count: int) -> "Labelled":
        """At most `count` slices, spread over all."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)
        rows = [self.rows[i] for i in chosen] if self.rows else ()
        return Labelled(self.pixels[chosen], self.labels[chosen], [self.groups[i] for i in chosen], rows)


@dataclass(frozen=True)
class Data:
    """What is learned from, and what shows how well."""

    train: Labelled
    validation: Labelled


def load_parts(dataset: Dataset, split: Split, alive: Callable[[], None] = lambda: None) -> dict[str, Labelled]:
    """The three parts of a split: train, validation, test. `alive` is called after each array file.

    Raises RuntimeError where one lacks slices of a class, and storage's FileMissing and FileDamaged.
    """
    with read_scope() as s:
        rows = {name: rows_of(s, dataset.id, split, name) for name in PARTS}
    parts = {name: load_part(dataset, found, alive) for name, found in rows.items()}
    for name, part in parts.items():
        if len(set(part.labels)) < 2:
            raise RuntimeError(f"the {name} part of the split lacks slices of a class: split by another seed")
    return parts


def load_part(dataset: Dataset, rows: Sequence[Row], alive: Callable[[], None] = lambda: None) -> Labelled:
    """The slices of these rows, in their order; the array files' hashes are checked, and `alive` is called after each.

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
