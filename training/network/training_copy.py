"""A copy of the network for training: another size, bfloat16, fast normalisation, its first layers frozen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from training.config import ALL
from training.network.resnet50 import build_network
from worker.engines.devices import has_bfloat16
from worker.engines.keras import config_in, on_gpu

PREDICT_BATCH = 64
SETTLING_BATCH = 16
MOMENTUM = 0.9  # of the moving statistics: a run here has too few steps for ResNet50's own 0.99
Precision = Literal["auto", "float32", "bfloat16"]


def training_copy(network: Any, size: int, precision: Precision, *, hidden: int, dropout: float) -> Any:
    """Copy the network at another size, with the same weights, as it trains fastest here."""
    half = precision == "bfloat16" or (precision == "auto" and (on_gpu() or has_bfloat16()))
    policy = keras.DTypePolicy("mixed_bfloat16" if half else "float32")
    fused = keras.backend.backend() == "tensorflow" and not on_gpu()

    def clone(layer: Any) -> Any:
        config = config_in(policy, layer)
        if isinstance(layer, keras.layers.BatchNormalization):
            config["momentum"] = MOMENTUM
            return (_fused_batch_normalization() if fused else keras.layers.BatchNormalization).from_config(config)
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(build_network(size, hidden=hidden, dropout=dropout), clone_function=clone)
    copy.set_weights(network.get_weights())
    return copy


def settle_normalisation(
    network: Any,
    slices: NDArray[np.uint8],
    precision: Precision,
    *,
    hidden: int,
    dropout: float,
    alive: Callable[[], None] = lambda: None,
) -> None:
    """Recompute the moving statistics from slices uint8[n,s,s] as they are predicted, with equal weight for each batch.

    Statistics of augmented slices, of another size, or of weights that were averaged since do not fit the network
    (Izmailov et al., 2018). `alive` is called after each batch.
    """
    copy = training_copy(network, slices.shape[1], precision, hidden=hidden, dropout=dropout)
    base = keras.Model(copy.input, copy.get_layer("flatten").output)
    normal = [layer for layer in base.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for number, start in enumerate(range(0, len(slices), SETTLING_BATCH)):
        for layer in normal:
            layer.momentum = number / (number + 1)
        base(slices[start : start + SETTLING_BATCH][..., None], training=True)
        alive()
    network.set_weights(copy.get_weights())


def _fused_batch_normalization() -> Any:
    """Return batch normalisation by TensorFlow's fused operation: Keras's own takes several times as long on a CPU."""
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
    """A network in two: `frozen`, from slices to the tensors between (None if nothing is frozen), and `learning`, from
    there to the logit. Both share the network's layers."""

    frozen: Any | None
    learning: Any


def cut(network: Any, unfreeze: int) -> Cut:
    """Let only the head and the last `unfreeze` layers of the base learn, and cut the network before them.

    Normalisation stays in inference mode, its parameters unchanged, unless everything learns (`unfreeze` is -1).
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
    """Return ResNet50's layers, in Keras's order: all before the pooled head."""
    names = [layer.name for layer in network.layers]
    return list(network.layers[names.index("conv1_pad") : names.index("pool")])


def _between(network: Any, late: set[int]) -> list[Any]:
    """Return the outputs of early layers that late layers or the head read."""
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
