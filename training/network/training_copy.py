"""Makes the copy of a network that is trained. Size, precision, normalisation and frozen layers can differ."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from training.config import ALL, Config
from training.network.resnet50 import build_network
from worker.engines.keras import config_in, has_fast_bfloat16, on_gpu

PREDICT_BATCH = 64
SETTLING_BATCH = 128  # takes less memory than a training step with 32 slices
SETTLING_SEED = 0
MOMENTUM = 0.9  # momentum of the moving statistics; a run has too few steps for ResNet50's 0.99


def training_copy(network: Any, size: int, config: Config) -> Any:
    """Copy the network at another size and with the same weights, in the form that trains fastest here."""
    policy = keras.DTypePolicy("mixed_bfloat16" if precision_of(config) == "bfloat16" else "float32")
    fused = keras.backend.backend() == "tensorflow" and not on_gpu()

    def clone(layer: Any) -> Any:
        settings = config_in(policy, layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            settings["momentum"] = MOMENTUM
            return (_fused_batch_normalization() if fused else keras.layers.BatchNormalization).from_config(settings)
        return layer.__class__.from_config(settings)

    plain = build_network(size, hidden=config.hidden, dropout=config.dropout, pixels=config.pixels)
    copy = keras.models.clone_model(plain, clone_function=clone)
    copy.set_weights(network.get_weights())
    return copy


def precision_of(config: Config) -> Literal["float32", "bfloat16"]:
    """Return the precision in which a run with this config computes on this machine."""
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if has_fast_bfloat16() else "float32"


def settle_normalisation(
    network: Any, slices: NDArray[np.uint8], config: Config, *, alive: Callable[[], None] = lambda: None
) -> None:
    """Recompute the moving statistics of normalisation from slices uint8[n,s,s], as they are in prediction.

    Statistics from augmented slices, from another size, or from weights before averaging do not fit the network
    (Izmailov et al., 2018). `alive` is called after each batch.

    The batches are large and shuffled, and the variance is that of all slices together, E[x²] - E[x]². A dataset lists
    class after class and patient after patient. The mean variance within batches of 16 in that order would lack the
    variance between patients. With that mean variance, the logits of a network for phantoms of 64 × 64 pixels were 1.26
    times as large.
    """
    copy = training_copy(network, slices.shape[1], config)
    base = _InTraining(keras.Model(copy.input, copy.get_layer("flatten").output))
    normal = [layer for layer in copy.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normal:
        layer.momentum = 0.0  # so that each batch sets its mean and variance
    sums = [np.zeros((2, *layer.moving_mean.shape)) for layer in normal]
    order = np.random.default_rng(SETTLING_SEED).permutation(len(slices))
    for batch in np.array_split(order, -(-len(slices) // SETTLING_BATCH)):
        base.predict_on_batch(slices[batch][..., None])
        for layer, total in zip(normal, sums, strict=True):
            mean, variance = np.asarray(layer.get_weights()[2:], np.float64)
            total += len(batch) * np.stack([mean, variance + mean**2])
        alive()
    for layer, total in zip(normal, sums, strict=True):
        mean, square = total / len(slices)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(square - mean**2)
    network.set_weights(copy.get_weights())


class _InTraining(keras.Model):  # type: ignore[misc]  # keras has no types
    """A model that computes as in training, also in prediction.

    If it is compiled, it keeps the values of only a few layers in memory.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(name="in_training")
        self.model = model
        self.compile(jit_compile=on_gpu())

    def call(self, slices: Any) -> Any:
        """Return the outputs of the model in training."""
        return self.model(slices, training=True)


def _fused_batch_normalization() -> Any:
    """Return batch normalisation with TensorFlow's fused operation. Keras's takes several times as long on a CPU."""
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]  # keras has no types
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            if not (training and self.trainable):
                return super().call(inputs, training=training, mask=mask)
            outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs,
                tf.convert_to_tensor(self.gamma),
                tf.convert_to_tensor(self.beta),
                epsilon=self.epsilon,
                is_training=True,
            )
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + batch * (1 - self.momentum))
            return outputs

    return FusedBatchNormalization


@dataclass(frozen=True)
class Cut:
    """A network that was cut into two. Both parts share the layers of the network.

    `frozen`: from the slices to the tensors at the cut, or None if nothing is frozen. `learning`: from there to the
    logit.
    """

    frozen: Any | None
    learning: Any


def cut(network: Any, unfreeze: int) -> Cut:
    """Let only the head and the last `unfreeze` layers of the base learn, and cut the network before them.

    Normalisation stays in inference mode with unchanged parameters, unless all layers learn (`unfreeze` is -1).
    """
    if unfreeze == ALL:
        network.trainable = True
        return Cut(None, keras.Model(network.input, network.output["logit"]))
    base = base_layers(network)
    late = {id(layer) for layer in base[max(len(base) - unfreeze, 0) :]}
    for layer in base:
        layer.trainable = id(layer) in late and not isinstance(layer, keras.layers.BatchNormalization)
    if len(late) == len(base):
        return Cut(None, keras.Model(network.input, network.output["logit"]))
    between = _between(network, late) if late else [network.get_layer("flatten").output]
    return Cut(keras.Model(network.input, between), keras.Model(between, network.output["logit"]))


def base_layers(network: Any) -> list[Any]:
    """Return the layers of ResNet50, in Keras's order. These are all layers before the pooled head."""
    names = [layer.name for layer in network.layers]
    return list(network.layers[names.index("conv1_pad") : names.index("pool")])


def _between(network: Any, late: set[int]) -> list[Any]:
    """Return the outputs of early layers that are inputs of late layers or of the head."""
    early = {id(layer) for layer in base_layers(network)} - late
    tensors: dict[int, Any] = {}
    for layer in network.layers:
        if id(layer) in early:
            continue
        for node in layer._inbound_nodes:
            for tensor in node.input_tensors:
                if id(tensor._keras_history.operation) in early:
                    tensors[id(tensor)] = tensor
    return list(tensors.values())


def predict(model: Any, inputs: Any, alive: Callable[[], None]) -> Any:
    """Predict as Keras does, and call `alive` after each batch."""
    beat = keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: alive())
    return model.predict(inputs, batch_size=PREDICT_BATCH, verbose=0, callbacks=[beat])
