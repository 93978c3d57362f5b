"""Training losses."""

from typing import Any

import keras


class GeneralizedCrossEntropy(keras.losses.Loss):  # type: ignore[misc]  # keras has no types
    """Cross-entropy that counts a slice less, the less the network believes its label (Zhang and Sabuncu, 2018).

    Slices are labelled by patient, and some slices of an ill patient show nothing of the disease. Cross-entropy makes
    the network memorise those. Here each slice counts by p**q, where p is the probability of its label and 0 < q <= 1;
    as q goes to 0, this is cross-entropy. It makes the network surer: a logit of z becomes about z / (1 - q). Takes
    labels 0 to 1 [n, 1] and logits [n, 1].
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
        """Return (1 - p**q) / q, exact for p near 1."""
        return -keras.ops.expm1(self.q * log_probability) / self.q


def loss_of(q: float, label_smoothing: float) -> Any:
    """Return the loss of a stage on logits; cross-entropy if `q` is 0."""
    if q:
        return GeneralizedCrossEntropy(q, label_smoothing)
    return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=label_smoothing)
