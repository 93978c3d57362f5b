"""Training losses, which give the loss of each slice, so that slices can have weights.

The network gives one logit for each slice, [n]. For such logits, the losses of Keras return one number for the whole
batch, so weights could only scale that number.
"""

from typing import Any

import keras


def _column(values: Any) -> Any:
    """Return values [n] or [n, 1] as float32 [n, 1]."""
    return keras.ops.reshape(keras.ops.cast(values, "float32"), (-1, 1))


class CrossEntropy(keras.losses.BinaryCrossentropy):  # type: ignore[misc]  # keras has no types
    """Cross-entropy of logits. Labels are 0 to 1. Labels and logits are [n] or [n, 1]."""

    def __init__(self, label_smoothing: float = 0) -> None:
        super().__init__(from_logits=True, label_smoothing=label_smoothing)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each slice, [n]."""
        return super().call(_column(y_true), _column(y_pred))


class GeneralizedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]  # keras has no types
    """Cross-entropy in which a slice counts less if the network does not believe its label (Zhang and Sabuncu, 2018).

    Slices are labelled by patient, and some slices of an ill patient do not show the disease. Cross-entropy makes the
    network memorise these slices. Here each slice has the weight p**q, where p is the probability of its label and
    0 < q <= 1. For q near 0, this is cross-entropy. The loss makes the network more certain: a logit z becomes about
    z / (1 - q). Labels are 0 to 1. Labels and logits are [n] or [n, 1].
    """

    def __init__(self, q: float, label_smoothing: float = 0) -> None:
        super().__init__(name="generalized_cross_entropy")
        self.q, self.label_smoothing = q, label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each slice, [n]."""
        logit = _column(y_pred)
        label = _column(y_true) * (1 - self.label_smoothing) + self.label_smoothing / 2
        positive, negative = (self._of(keras.ops.log_sigmoid(signed)) for signed in (logit, -logit))
        return keras.ops.mean(label * positive + (1 - label) * negative, axis=-1)

    def _of(self, log_probability: Any) -> Any:
        """Return (1 - p**q) / q, also exactly for p near 1."""
        return -keras.ops.expm1(self.q * log_probability) / self.q


def loss_of(q: float, label_smoothing: float) -> Any:
    """Return the loss of a stage for logits. It is cross-entropy if `q` is 0."""
    if q:
        return GeneralizedCrossEntropy(q, label_smoothing)
    return CrossEntropy(label_smoothing)
