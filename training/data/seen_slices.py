"""Which slices a model was trained on: the very pixels, or near-identical ones, of a file saved anew."""

import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.models import Dataset, ModelVersion
from db.models.datasets import ARRAY_SLICES
from db.storage import FileDamaged, FileMissing, storage
from db.training.lineage import rows_in, trained_on
from worker.imaging.near_duplicates import Pictures, near_pairs

log = logging.getLogger(__name__)

ALIVE_EVERY = 256  # slices


def find_known(
    pixels: NDArray[np.uint8], taught: Iterable[NDArray[np.uint8]], alive: Callable[[], None] = lambda: None
) -> NDArray[np.bool_]:
    """Which of n slices, uint8[n, 224, 224], are among those `taught`, or near-identical to one: bool[n].

    `alive` is called now and then: 100,000 slices take minutes.
    """
    pictures = Pictures()
    for each in _beating(taught, alive):
        pictures.place(_key(each), each)
    theirs = len(pictures.places)
    if not theirs:
        return np.zeros(len(pixels), np.bool_)
    ours = np.array([pictures.place(_key(each), each) for each in _beating(pixels, alive)], np.int64)
    known = np.arange(len(pictures.places)) < theirs
    for left, right in near_pairs(*pictures.arrays(), alive):
        known[right[left < theirs]] = True  # one of theirs is always the left of a pair with one of ours
    return np.asarray(known[ours])


def _key(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def slices_of(dataset: Dataset, rows: Container[int] | None = None) -> Iterator[NDArray[np.uint8]]:
    """The slices of a dataset, uint8[224, 224] each, or of these rows of it, as far as its files are there."""
    start = 0
    for sha256 in dataset.arrays:
        try:
            array = np.load(storage().verified_path(sha256), mmap_mode="r", allow_pickle=False)
        except (FileMissing, FileDamaged):
            log.warning("slices of a dataset are gone", extra={"dataset": dataset.id})
            start += ARRAY_SLICES
            continue
        for row, each in enumerate(array, start):
            if rows is None or row in rows:
                yield each
        start += len(array)


def taught_slices(
    s: Session, version: ModelVersion, parts: Sequence[str], *, but: int | None = None
) -> list[Iterator[NDArray[np.uint8]]]:
    """By dataset, the slices that lay in these parts for the version or one that it comes from; not those of the
    dataset `but`. They are read once they are asked for, when `s` may be closed."""
    datasets = [each for each in trained_on(s, version) if each.id != but]
    return [slices_of(each, rows_in(s, version, each, parts)) for each in datasets]


def _beating(slices: Iterable[NDArray[np.uint8]], alive: Callable[[], None]) -> Iterator[NDArray[np.uint8]]:
    for number, each in enumerate(slices):
        if number % ALIVE_EVERY == 0:
            alive()
        yield each
