"""Finds slices that a model was trained on: with the same pixels, or near-identical because a file was saved again."""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.models import Dataset, ModelVersion
from db.models.datasets import ARRAY_SLICES
from db.storage import FileDamaged, FileMissing, storage
from db.training.lineage import deleted_sources, rows_in, trained_on
from worker.imaging.near_duplicates import Pictures, near_pairs

log = logging.getLogger(__name__)

ALIVE_EVERY = 256  # slices


def find_seen_in_training(
    pixels: NDArray[np.uint8], trained: Iterable[NDArray[np.uint8]], alive: Callable[[], None] = lambda: None
) -> NDArray[np.bool_]:
    """Return which of n slices, uint8[n, 224, 224], are identical or near-identical to one of `trained`: bool[n].

    `alive` is called now and then, because 100,000 slices take minutes.
    """
    pictures = Pictures()
    for one in _with_heartbeat(trained, alive):
        pictures.place(_key(one), one)
    count = len(pictures.places)
    if not count:
        return np.zeros(len(pixels), np.bool_)
    places = np.array([pictures.place(_key(one), one) for one in _with_heartbeat(pixels, alive)], np.int64)
    is_seen = np.arange(len(pictures.places)) < count
    for left, right in near_pairs(pictures.arrays(), alive):
        is_seen[right[left < count]] = True  # the left slice of a pair is always the one that was placed first
    return np.asarray(is_seen[places])


def _key(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


@dataclass
class TrainingSlices:
    """Slices of datasets, uint8[224, 224] each. They are read during the iteration. `s` may be closed by then.

    `rows`: the datasets, and the rows to read of each. `deleted`: the size of further datasets, which were deleted.
    `gone`: how many slices the last iteration skipped, because they are deleted, or their files are missing or damaged.
    """

    rows: Sequence[tuple[Dataset, Collection[int]]]
    deleted: int = 0
    gone: int = 0

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        self.gone = self.deleted
        for dataset, rows in self.rows:
            start = 0
            for sha256 in dataset.arrays:
                try:
                    array = np.load(storage().verified_path(sha256), mmap_mode="r", allow_pickle=False)
                except (FileMissing, FileDamaged):
                    log.warning("slices of a dataset are gone", extra={"dataset": dataset.id})
                    self.gone += sum(row in rows for row in range(start, start + ARRAY_SLICES))
                    start += ARRAY_SLICES
                else:
                    yield from (pixels for row, pixels in enumerate(array, start) if row in rows)
                    start += len(array)


def gone_note(count: int) -> str:
    """Return a line that says how many slices are gone, and what this means for the comparison."""
    return f"{count:,} slices that the model learned from are gone, so slices that look like them could not be found"


def training_slices_of(
    s: Session, version: ModelVersion, parts: Sequence[str], *, but: int | None = None
) -> TrainingSlices:
    """Return the slices that were in `parts` when the version or one of its ancestors was trained.

    Leave out the dataset with the id `but`. Of a deleted dataset, all slices count as slices of these parts, because
    nobody knows their parts any more.
    """
    datasets = [dataset for dataset in trained_on(s, version) if dataset.id != but]
    rows = [(dataset, rows_in(s, version, dataset, parts)) for dataset in datasets]
    return TrainingSlices(rows, sum(dataset.size for dataset in deleted_sources(s, version)))


def _with_heartbeat(slices: Iterable[NDArray[np.uint8]], alive: Callable[[], None]) -> Iterator[NDArray[np.uint8]]:
    for number, pixels in enumerate(slices):
        if number % ALIVE_EVERY == 0:
            alive()
        yield pixels
