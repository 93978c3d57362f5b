"""Makes the batches of a stage: freshly augmented slices, or augmented copies whose frozen layers are computed once."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from db.database import current
from training.config import Stage
from training.data.augment import Augmenter
from training.data.slices import Labelled
from training.errors import NoRoom

Pixels = NDArray[np.uint8]
Batch = tuple[list[NDArray[Any]], NDArray[np.float32]]
AUGMENTED_AT_ONCE = 32

_COPIES, _ORDER, _FRESH = 1, 2, 3  # the purposes of seeds


def seed_of(*parts: int) -> int:
    """Return a seed below 2³², derived from these parts."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def shrink(pixels: Pixels, size: int) -> Pixels:
    """Shrink uint8[n,s,s] to uint8[n,size,size]. Each pixel is the mean of the area that it covers."""
    if size == pixels.shape[1]:
        return pixels
    small = [Image.fromarray(slice_).resize((size, size), Image.Resampling.BOX) for slice_ in pixels]
    return np.stack([np.asarray(image) for image in small])


def steps_of(count: int, stage: Stage) -> int:
    """Return the number of batches in an epoch. The last batch is filled, so that only one size is compiled."""
    return -(-count // stage.batch)


def order(count: int, stage: Stage, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch of an epoch. Every row comes once. Some rows come twice, to fill the last batch."""
    rows = np.random.default_rng([seed, _ORDER, epoch]).permutation(count)
    yield from np.resize(rows, (steps_of(count, stage), stage.batch))


class Fresh:
    """Batches in which every slice is augmented anew each time."""

    def __init__(self, data: Labelled, stage: Stage, augmenter: Augmenter, seed: int) -> None:
        self._pixels, self._labels = shrink(data.pixels, stage.size), data.labels.astype(np.float32)
        self._stage, self._augmenter, self._seed = stage, augmenter, seed

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: [uint8[b,s,s,1]] and float32[b]. They are the same at each call."""
        for number, rows in enumerate(order(len(self._pixels), self._stage, self._seed, epoch)):
            changed = self._augmenter(self._pixels[rows], seed_of(self._seed, _FRESH, epoch, number))
            yield [changed[..., None]], self._labels[rows]


def augmented_copy(pixels: Pixels, augmenter: Augmenter, seed: int, copy: int) -> Iterator[Pixels]:
    """Yield augmented copy number `copy` of all slices, in their order, some slices at a time."""
    for start in range(0, len(pixels), AUGMENTED_AT_ONCE):
        yield augmenter(pixels[start : start + AUGMENTED_AT_ONCE], seed_of(seed, _COPIES, copy, start))


def keep_features(
    parts: Iterator[Pixels],
    count: int,
    frozen: Callable[[Pixels], list[NDArray[Any]]],
    path: Path,
    check_room: Callable[[int], None],
) -> list[NDArray[Any]]:
    """Compute `frozen` for `count` slices, which come in parts uint8[n,s,s]. Store the features in memory-mapped files.

    The names of the files begin with `path`. `check_room` gets the bytes for a slice before the files are written.
    Raises OSError if the disk is full.
    """
    kept: list[NDArray[Any]] = []
    start = 0
    for part in parts:
        features = frozen(part[..., None])
        if not kept:
            check_room(sum(array[0].nbytes for array in features))
            kept = [
                _allocated(path.with_name(f"{path.name}-{i}.npy"), array.dtype, (count, *array.shape[1:]))
                for i, array in enumerate(features)
            ]
        for target, array in zip(kept, features, strict=True):
            target[start : start + len(array)] = array
        start += len(part)
    return kept


def check_room(stage: Stage, folder: Path, slice_bytes: int, *, train: int, validation: int, made: int = 0) -> None:
    """Raise NoRoom if the features of a stage would use the disk's reserve.

    While the reserve is used, no worker claims other work, and a stage may take hours. `slice_bytes`: the bytes of a
    slice's features. `train`, `validation`: numbers of slices. `made`: how many copies of the training slices are on
    the disk already.
    """
    free = shutil.disk_usage(folder).free - current().reserve_bytes
    needed = ((copies_of(stage) - made) * train + validation) * slice_bytes
    if needed > free:
        fit = made + (free - validation * slice_bytes) // (train * slice_bytes)
        raise NoRoom(stage.name, folder, needed=needed, free=max(free, 0), copies=max(fit, 0))


def copies_of(stage: Stage) -> int:
    """Return how many augmented copies of each slice a stage keeps, if it has frozen layers."""
    return min(stage.copies, stage.epochs)


class Copies:
    """Batches of augmented copies of every slice. Their `frozen` layers are computed once.

    The epochs use the copies in turn. The features are in memory-mapped files in `folder`, which the caller removes.
    `check_room` gets the bytes for a slice and, as `made`, the number of copies that are made. `progress` gets the
    share of copies that are made.

    Raises what `check_room` raises, before most of the work is done. Raises OSError if the disk is full all the same.
    """

    def __init__(
        self,
        data: Labelled,
        stage: Stage,
        augmenter: Augmenter,
        seed: int,
        frozen: Callable[[Pixels], list[NDArray[Any]]],
        folder: Path,
        check_room: Callable[..., None],
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._labels, self._stage, self._seed = data.labels.astype(np.float32), stage, seed
        pixels = shrink(data.pixels, stage.size)
        self._copies: list[list[NDArray[Any]]] = []
        count = copies_of(stage)
        for copy in range(count):
            parts = augmented_copy(pixels, augmenter, seed, copy)
            check = partial(check_room, made=copy)
            self._copies.append(keep_features(parts, len(pixels), frozen, folder / f"copy-{copy}", check))
            progress((copy + 1) / count)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: features of the frozen layers, and float32[b]. They are the same each time."""
        copy = self._copies[epoch % len(self._copies)]
        for rows in order(len(self._labels), self._stage, self._seed, epoch):
            yield [array[rows] for array in copy], self._labels[rows]


def _allocated(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Make a memory-mapped .npy file, and reserve its space on the disk. Raises OSError (ENOSPC).

    Without reserved space, writing to the mapped file would kill the process with SIGBUS if the disk is full.
    """
    kept = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return kept


def half_range(features: NDArray[Any]) -> NDArray[Any]:
    """Return features in the type for storing: bfloat16 becomes float16, which is exact in their range."""
    if features.dtype in (np.float32, np.float64, np.float16):
        return features
    return np.clip(features.astype(np.float32), -65504, 65504).astype(np.float16)
