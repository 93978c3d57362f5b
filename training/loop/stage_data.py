"""Provides the data for the epochs of a stage: training batches and validation slices."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import Augment, Stage
from training.data.augment import Augmenter
from training.data.batches import Batch, Copies, Fresh, half_range, keep_features, shrink
from training.data.slices import Data
from training.loop.observer import Arrays
from training.network.training_copy import PREDICT_BATCH, Cut, predict

AT_ONCE = 16 * PREDICT_BATCH  # validation slices that are computed at a time


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
        pixels = shrink(data.validation.pixels, stage.size)
        if parts.frozen is None:
            self._source = Fresh(data.train, stage, augmenter, seed)
            self.validation: Arrays = [pixels[..., None]]
            return
        try:
            self._source = Copies(data.train, stage, augmenter, seed, self._features, self._folder, progress)
            self.validation = self._kept(pixels)
        except BaseException:
            self.close()
            raise

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch: pixels or features, and labels float32[b]. They are the same at each call."""
        return self._source.epoch(epoch) if self._source else iter(())

    def _kept(self, pixels: NDArray[np.uint8]) -> Arrays:
        """Compute the features of the validation slices."""
        parts = (pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE))
        return keep_features(parts, len(pixels), self._features, self._folder / "validation")

    def _features(self, pixels: NDArray[np.uint8]) -> Arrays:
        features: Any = predict(self._frozen, pixels, self._alive)
        return [half_range(array) for array in (features if isinstance(features, list) else [features])]

    def close(self) -> None:
        """Remove the files."""
        self._source, self.validation = None, []
        shutil.rmtree(self._folder, ignore_errors=True)
