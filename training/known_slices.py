"""How many of a site's slices a model was trained on: the very pixels, or near-identical ones, of a file saved anew."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from db.models import Dataset
from db.storage import FileDamaged, FileMissing, storage
from worker.imaging.similar import Pictures, near_pairs

log = logging.getLogger(__name__)

ALIVE_EVERY = 256  # slices


def share_known(
    pixels: NDArray[np.uint8], trained_on: Sequence[Dataset], alive: Callable[[], None] = lambda: None
) -> float:
    """The share of slices, uint8[n, 224, 224], that these datasets hold, as far as their files are there.

    `alive` is called now and then: 100,000 slices take minutes.
    """
    if not trained_on or not len(pixels):
        return 0.0
    pictures = Pictures()
    for each in _beating(_slices_of(trained_on), alive):
        pictures.place(_key(each), each)
    theirs = len(pictures.places)
    ours = np.array([pictures.place(_key(each), each) for each in _beating(pixels, alive)])
    known = np.arange(len(pictures.places)) < theirs
    for left, right in near_pairs(*pictures.arrays(), alive):
        known[right[left < theirs]] = True  # one of theirs is always the left of a pair with one of ours
    return float(known[ours].mean())


def _key(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _slices_of(datasets: Sequence[Dataset]) -> Iterator[NDArray[np.uint8]]:
    for dataset in datasets:
        for sha256 in dataset.arrays:
            try:
                yield from np.load(storage().verified_path(sha256), mmap_mode="r", allow_pickle=False)
            except (FileMissing, FileDamaged):
                log.warning("slices of a dataset are gone", extra={"dataset": dataset.id})


def _beating(slices: Iterable[NDArray[np.uint8]], alive: Callable[[], None]) -> Iterator[NDArray[np.uint8]]:
    for number, each in enumerate(slices):
        if number % ALIVE_EVERY == 0:
            alive()
        yield each
