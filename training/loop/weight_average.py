"""Computes the moving average of a model's weights."""

from typing import Any

import keras
import numpy as np

from training.loop.observer import Arrays

EVERY = 4  # steps between two updates of the average


class WeightAverage:
    """The moving average of all weights of a model, also of the statistics of its normalisation.

    Early in a stage, the average covers about the last half of the steps. With the full momentum from the start, it
    would include the random weights for too long.
    """

    def __init__(self, model: Any, momentum: float) -> None:
        self._model, self._momentum = model, momentum
        self._means: list[Any] = model.get_weights()  # arrays at first, tensors after the first update

    def add(self, done: int, step: int, *, ends_epoch: bool) -> None:
        """Add the present weights, every few steps and at the end of an epoch. The average is used for validation.

        `done`: the steps of the stage so far. `step`: the step of the epoch, from 1.
        """
        if done % EVERY and not ends_epoch:
            return
        since = min(done % EVERY or EVERY, step)
        momentum = min(self._momentum, (1 + done) / (3 + done))
        share = 1 - momentum**since
        pairs = zip(self._means, self._model.weights, strict=True)
        self._means = [mean + share * (weight - mean) for mean, weight in pairs]

    def arrays(self) -> Arrays:
        """Return copies of the average, because a backend may free the memory of values that a variable was set to."""
        return [np.array(keras.ops.convert_to_numpy(mean)) for mean in self._means]

    def restore(self, arrays: Arrays) -> None:
        """Continue from the arrays of an earlier average."""
        self._means = [np.array(array) for array in arrays]
