"""What a stage learns from: freshly augmented slices, or augmented copies whose frozen layers were computed once."""

import os
import shutil
import tempfile
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
    """A seed below 2³² from what it is for; the same parts always give the same."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def shrink(pixels: Pixels, size: int) -> Pixels:
    """uint8[n,s,s] → uint8[n,size,size], each pixel the mean of the area that it covers."""
    if size == pixels.shape[1]:
        return pixels
    found = [Image.fromarray(each).resize((size, size), Image.Resampling.BOX) for each in pixels]
    return np.stack([np.asarray(each) for each in found])


def steps_of(count: int, stage: Stage) -> int:
    """Batches in an epoch; the last one is filled up, for a batch of another size would be compiled anew."""
    return -(-count // stage.batch)


def order(count: int, stage: Stage, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """The rows of each batch of an epoch: every row once, and some twice to fill the last batch."""
    rows = np.random.default_rng([seed, _ORDER, epoch]).permutation(count)
    yield from np.resize(rows, (steps_of(count, stage), stage.batch))


class Fresh:
    """Every slice augmented anew each time it is shown."""

    def __init__(self, data: Labelled, stage: Stage, augmenter: Augmenter, seed: int) -> None:
        self._pixels, self._labels = shrink(data.pixels, stage.size), data.labels.astype(np.float32)
        self._stage, self._augmenter, self._seed = stage, augmenter, seed

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, the same each time it is asked for: [uint8[b,s,s,1]], float32[b]."""
        for number, rows in enumerate(order(len(self._pixels), self._stage, self._seed, epoch)):
            changed = self._augmenter(self._pixels[rows], seed_of(self._seed, _FRESH, epoch, number))
            yield [changed[..., None]], self._labels[rows]


def augmented_copy(pixels: Pixels, augmenter: Augmenter, seed: int, copy: int) -> Iterator[Pixels]:
    """Copy number `copy` of all slices, in their order, some at a time."""
    for start in range(0, len(pixels), AUGMENTED_AT_ONCE):
        yield augmenter(pixels[start : start + AUGMENTED_AT_ONCE], seed_of(seed, _COPIES, copy, start))


def keep_features(
    parts: Iterator[Pixels],
    count: int,
    frozen: Callable[[Pixels], list[NDArray[Any]]] | None,
    path: Path,
    check_room: Callable[[int], None] = lambda size: None,
) -> list[NDArray[Any]]:
    """What `frozen` gives for `count` slices that come as parts uint8[n,s,s], or the slices: memory-mapped files whose
    names begin as `path`. `check_room` is told the bytes before they are taken. Raises OSError (the disk is full)."""
    kept: list[NDArray[Any]] = []
    start = 0
    for part in parts:
        found = frozen(part[..., None]) if frozen else [part[..., None]]
        if not kept:
            check_room(count * sum(each[0].nbytes for each in found))
            kept = [
                _allocated(path.with_name(f"{path.name}-{i}.npy"), each.dtype, (count, *each.shape[1:]))
                for i, each in enumerate(found)
            ]
        for target, each in zip(kept, found, strict=True):
            target[start : start + len(each)] = each
        start += len(part)
    return kept


class Copies:
    """Augmented copies of every slice, epoch after epoch in turn; `frozen`, if given, is computed once for each.

    What it gives is kept in files, memory-mapped, in a temporary folder inside `folder` until `close()`. `progress` is
    told the share of copies that are made.

    Raises NoRoom before the bulk is computed, and OSError where the disk fills up all the same.
    """

    def __init__(
        self,
        data: Labelled,
        stage: Stage,
        augmenter: Augmenter,
        seed: int,
        frozen: Callable[[Pixels], list[NDArray[Any]]] | None,
        folder: Path,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self._labels, self._stage, self._seed = data.labels.astype(np.float32), stage, seed
        self._folder = Path(tempfile.mkdtemp(prefix="features-", dir=folder))
        pixels = shrink(data.pixels, stage.size)
        self._copies: list[list[NDArray[Any]]] = []
        try:
            count = min(stage.copies, stage.epochs)
            for copy in range(count):
                parts = augmented_copy(pixels, augmenter, seed, copy)
                check = partial(self._check_room, count - copy)
                self._copies.append(keep_features(parts, len(pixels), frozen, self._folder / str(copy), check))
                progress((copy + 1) / count)
        except BaseException:
            self.close()
            raise

    def _check_room(self, copies: int, size: int) -> None:
        """Raises NoRoom where the copies that are still to be made, of `size` bytes each, do not fit on the disk."""
        free = shutil.disk_usage(self._folder).free
        if copies * size <= free:
            return
        fit = len(self._copies) + free // size
        raise NoRoom(self._stage.name, self._folder.parent, needed=copies * size, free=free, copies=fit)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, the same each time it is asked for: what `frozen` gave, and float32[b]."""
        copy = self._copies[epoch % len(self._copies)]
        for rows in order(len(self._labels), self._stage, self._seed, epoch):
            yield [each[rows] for each in copy], self._labels[rows]

    def close(self) -> None:
        """Remove the files."""
        self._copies.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


def _allocated(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A new .npy file, memory-mapped, that has its room on the disk: writing to a mapped file that the disk cannot take
    ends the process with SIGBUS. Raises OSError (ENOSPC)."""
    kept = np.lib.format.open_memmap(path, "w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return kept


def half_range(found: NDArray[Any]) -> NDArray[Any]:
    """Features as they are kept: bfloat16 as float16, which holds all that it says in the range they have."""
    if found.dtype in (np.float32, np.float64, np.float16):
        return found
    return np.clip(found.astype(np.float32), -65504, 65504).astype(np.float16)
