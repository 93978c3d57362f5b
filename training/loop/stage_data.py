"""Provides the data for the epochs of a stage: training batches and validation slices."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import ALL, Augment, Config, Stage
from training.data.augment import Augmenter
from training.data.batches import Batch, Copies, Fresh, check_room, copies_of, half_range, keep_features, shrink
from training.data.slices import Data
from training.loop.observer import Arrays
from training.network.training_copy import PREDICT_BATCH, Cut, cut, predict, training_copy

_BYTES = {"float32": 4, "bfloat16": 2}  # of a stored value, by the type that the network computes in
AT_ONCE = 16 * PREDICT_BATCH  # validation slices that are computed at a time


def check_later_stages(network: Any, config: Config, first: int, data: Data, folder: Path) -> None:
    """Raise NoRoom if the features of a stage after number `first` do not fit on the disk.

    Without this check, the lack of space would be noticed only after the earlier stages.
    """
    for stage in config.stages[first + 1 :]:
        frozen = (
            None if stage.unfreeze == ALL else cut(training_copy(network, stage.size, config), stage.unfreeze).frozen
        )
        if frozen is not None:
            slice_bytes = sum(_BYTES[tensor.dtype] * math.prod(tensor.shape[1:]) for tensor in frozen.outputs)
            check_room(stage, folder, slice_bytes, train=len(data.train), validation=len(data.validation))


class StageData:
    """The slices of a stage, or the features of its frozen layers, which stay on the disk until `close()`.

    `progress` gets the share of augmented copies that are made. `alive` is called after each batch. If one of them
    raises an error, no file is left behind. Raises NoRoom or OSError if the disk is too small.
    """

    def __init__(
        self,
        data: Data,
        stage: Stage,
        augment: Augment,
        parts: Cut,
        seed: int,
        folder: Path,
        *,
        progress: Callable[[float], None],
        alive: Callable[[], None],
    ) -> None:
        self._frozen, self._alive = parts.frozen, alive
        self._folder = Path(tempfile.mkdtemp(prefix="features-", dir=folder))
        self._source: Fresh | Copies | None = None
        augmenter = Augmenter(augment)
        counts = {"train": len(data.train), "validation": len(data.validation)}
        self._check_room = partial(check_room, stage, folder, **counts)
        pixels = shrink(data.validation.pixels, stage.size)
        if parts.frozen is None:
            self._source = Fresh(data.train, stage, augmenter, seed)
            self.validation: Arrays = [pixels[..., None]]
            return
        try:
            self._source = Copies(
                data.train, stage, augmenter, seed, self._features, self._folder, self._check_room, progress
            )
            self.validation = self._kept(pixels, partial(self._check_room, made=copies_of(stage)))
        except BaseException:
            self.close()
            raise

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: pixels or features, and labels float32[b]. They are the same at each call."""
        return self._source.epoch(epoch) if self._source else iter(())

    def _kept(self, pixels: NDArray[np.uint8], check: Callable[[int], None]) -> Arrays:
        """Compute the features of the validation slices."""
        parts = (pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE))
        return keep_features(parts, len(pixels), self._features, self._folder / "validation", check)

    def _features(self, pixels: NDArray[np.uint8]) -> Arrays:
        features: Any = predict(self._frozen, pixels, self._alive)
        return [half_range(array) for array in (features if isinstance(features, list) else [features])]

    def close(self) -> None:
        """Remove the files."""
        self._source, self.validation = None, []
        shutil.rmtree(self._folder, ignore_errors=True)
