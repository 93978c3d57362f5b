"""Training losses."""

from typing import Any

import keras


class GeneralizedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]  # keras has no types
    """Cross-entropy in which a slice counts less if the network does not believe its label (Zhang and Sabuncu, 2018).

    Slices are labelled by patient, and some slices of an ill patient do not show the disease. Cross-entropy makes the
    network memorise these. Here each slice has the weight p**q, where p is the probability of its label and
    0 < q <= 1. For q near 0, this is cross-entropy. The loss makes the network more certain: a logit z becomes about
    z / (1 - q). Labels are 0 to 1 [n, 1], and logits are [n, 1].
    """

    def __init__(self, q: float, label_smoothing: float = 0) -> None:
        super().__init__(name="generalized_cross_entropy")
        self.q, self.label_smoothing = q, label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each slice, [n]."""
        logit = keras.ops.cast(y_pred, "float32")
        label = keras.ops.cast(y_true, "float32") * (1 - self.label_smoothing) + self.label_smoothing / 2
        positive, negative = (self._of(keras.ops.log_sigmoid(signed)) for signed in (logit, -logit))
        return keras.ops.mean(label * positive + (1 - label) * negative, axis=-1)

    def _of(self, log_probability: Any) -> Any:
        """Return (1 - p**q) / q, also exactly for p near 1."""
        return -keras.ops.expm1(self.q * log_probability) / self.q


def loss_of(q: float, label_smoothing: float) -> Any:
    """Return the loss of a stage for logits. It is cross-entropy if `q` is 0."""
    if q:
        return GeneralizedCrossEntropy(q, label_smoothing)
    return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
