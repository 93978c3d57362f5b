"""Predicts the validation slices of a stage, and measures the loss."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.loop.observer import Arrays
from training.loop.stage_data import AT_ONCE
from training.network.training_copy import predict
from worker.engines.package import probability


def predict_parts(model: Any, inputs: Arrays, alive: Callable[[], None]) -> NDArray[np.float64]:
    """Return the logits [n] of pixels or features. Predict some slices at a time, because Keras copies its input."""
    starts = range(0, len(inputs[0]), AT_ONCE)
    parts = (as_input([array[start : start + AT_ONCE] for array in inputs]) for start in starts)
    return np.concatenate([np.asarray(predict(model, part, alive), np.float64) for part in parts])


def as_input(arrays: Arrays) -> Any:
    """Return arrays in the form for Keras: pixels unchanged, features in float32, and a single array without a list."""
    inputs = [array if array.dtype == np.uint8 else array.astype(np.float32, copy=False) for array in arrays]
    return inputs if len(inputs) > 1 else inputs[0]


def cross_entropy(logit: NDArray[np.float64], labels: NDArray[np.uint8], *, balanced: bool) -> float:
    """Return the mean cross-entropy. If `balanced`, both classes have equal weights."""
    positive = np.clip(probability(logit, 1.0), 1e-7, 1 - 1e-7)
    losses = -np.where(labels == 1, np.log(positive), np.log(1 - positive))
    weights = class_weights(labels) if balanced else {0: 1.0, 1: 1.0}
    return float(np.where(labels == 1, weights[1], weights[0]) @ losses / len(losses))


def class_weights(labels: NDArray[np.uint8]) -> dict[int, float]:
    """Return the weight of a slice by class, so that both classes have equal weights, and the mean weight is 1."""
    return {label: len(labels) / (2 * int((labels == label).sum())) for label in (0, 1)}
