"""The batches of a stage: freshly augmented slices, or augmented copies whose frozen layers were computed once."""

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.config import Stage
from training.data.augment import Augmenter
from training.data.slices import Labelled
from training.errors import NoRoom

Pixels = NDArray[np.uint8]
Batch = tuple[list[NDArray[Any]], NDArray[np.float32]]
AUGMENTED_AT_ONCE = 32

_COPIES, _ORDER, _FRESH = 1, 2, 3  # what a seed is for


def seed_of(*parts: int) -> int:
    """Return a seed below 2³² that follows from these parts."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def shrink(pixels: Pixels, size: int) -> Pixels:
    """Shrink uint8[n,s,s] to uint8[n,size,size]; each pixel is the mean of the area that it covers."""
    if size == pixels.shape[1]:
        return pixels
    small = [Image.fromarray(slice_).resize((size, size), Image.Resampling.BOX) for slice_ in pixels]
    return np.stack([np.asarray(image) for image in small])


def steps_of(count: int, stage: Stage) -> int:
    """Return the number of batches in an epoch. The last batch is filled up, so that only one size is compiled."""
    return -(-count // stage.batch)


def order(count: int, stage: Stage, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch of an epoch: every row once, and some twice to fill the last batch."""
    rows = np.random.default_rng([seed, _ORDER, epoch]).permutation(count)
    yield from np.resize(rows, (steps_of(count, stage), stage.batch))


class Fresh:
    """Every slice augmented anew each time it is shown."""

    def __init__(self, data: Labelled, stage: Stage, augmenter: Augmenter, seed: int) -> None:
        self._pixels, self._labels = shrink(data.pixels, stage.size), data.labels.astype(np.float32)
        self._stage, self._augmenter, self._seed = stage, augmenter, seed

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, the same ones each time: [uint8[b,s,s,1]], float32[b]."""
        for number, rows in enumerate(order(len(self._pixels), self._stage, self._seed, epoch)):
            changed = self._augmenter(self._pixels[rows], seed_of(self._seed, _FRESH, epoch, number))
            yield [changed[..., None]], self._labels[rows]


def augmented_copy(pixels: Pixels, augmenter: Augmenter, seed: int, copy: int) -> Iterator[Pixels]:
    """Yield copy number `copy` of all slices, in their order, some at a time."""
    for start in range(0, len(pixels), AUGMENTED_AT_ONCE):
        yield augmenter(pixels[start : start + AUGMENTED_AT_ONCE], seed_of(seed, _COPIES, copy, start))


def keep_features(
    parts: Iterator[Pixels],
    count: int,
    frozen: Callable[[Pixels], list[NDArray[Any]]],
    path: Path,
    check_room: Callable[[int], None] = lambda size: None,
) -> list[NDArray[Any]]:
    """Compute `frozen` for `count` slices that come as parts uint8[n,s,s], into memory-mapped files.

    The files' names begin as `path`. `check_room` gets their size in bytes before the disk is taken. Raises OSError if
    the disk is full.
    """
    kept: list[NDArray[Any]] = []
    start = 0
    for part in parts:
        features = frozen(part[..., None])
        if not kept:
            check_room(count * sum(array[0].nbytes for array in features))
            kept = [
                _allocated(path.with_name(f"{path.name}-{i}.npy"), array.dtype, (count, *array.shape[1:]))
                for i, array in enumerate(features)
            ]
        for target, array in zip(kept, features, strict=True):
            target[start : start + len(array)] = array
        start += len(part)
    return kept


class Copies:
    """Augmented copies of every slice, whose `frozen` layers are computed once. The epochs use the copies in turn.

    The features lie in memory-mapped files inside `folder`, which the caller removes. `progress` gets the share of
    copies that are made.

    Raises NoRoom before the bulk is computed, and OSError if the disk fills up all the same.
    """

    def __init__(
        self,
        data: Labelled,
        stage: Stage,
        augmenter: Augmenter,
        seed: int,
        frozen: Callable[[Pixels], list[NDArray[Any]]],
        folder: Path,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._labels, self._stage, self._seed = data.labels.astype(np.float32), stage, seed
        self._folder = folder
        pixels = shrink(data.pixels, stage.size)
        self._copies: list[list[NDArray[Any]]] = []
        count = min(stage.copies, stage.epochs)
        for copy in range(count):
            parts = augmented_copy(pixels, augmenter, seed, copy)
            check = partial(self._check_room, count - copy)
            self._copies.append(keep_features(parts, len(pixels), frozen, folder / f"copy-{copy}", check))
            progress((copy + 1) / count)

    def _check_room(self, copies: int, size: int) -> None:
        """Raise NoRoom if the copies that are still to be made, of `size` bytes each, do not fit on the disk."""
        free = shutil.disk_usage(self._folder).free
        if copies * size <= free:
            return
        fit = len(self._copies) + free // size
        raise NoRoom(self._stage.name, self._folder.parent, needed=copies * size, free=free, copies=fit)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, the same ones each time: features of the frozen layers, and float32[b]."""
        copy = self._copies[epoch % len(self._copies)]
        for rows in order(len(self._labels), self._stage, self._seed, epoch):
            yield [array[rows] for array in copy], self._labels[rows]


def _allocated(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Make a memory-mapped .npy file, and reserve its space on the disk. Raises OSError (ENOSPC).

    Without reserved space, writing to the mapped file would end the process with SIGBUS.
    """
    kept = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return kept


def half_range(features: NDArray[Any]) -> NDArray[Any]:
    """Return features in the type in which they are kept: bfloat16 as float16, which is exact in their range."""
    if features.dtype in (np.float32, np.float64, np.float16):
        return features
    return np.clip(features.astype(np.float32), -65504, 65504).astype(np.float16)
