"""The classifier: a ResNet50 base, with a pooled head that also computes the heat map.

Only stock Keras layers and `keras.ops` are used. So a saved model loads without our code on any Keras backend, and can
be exported to OpenVINO without changes.
"""

from pathlib import Path
from typing import Any

import keras
from keras import layers, ops

from training.config import Pixels
from training.network.load_weights import take_over
from training.network.pixel_scale import pixel_layer


def build_network(
    size: int = 224,
    *,
    weights: Path | None = None,
    hidden: int = 256,
    dropout: float = 0.3,
    pixels: Pixels = "caffe",
    seed: int | None = None,
) -> keras.Model:
    """Build `uint8[n,size,size,1] -> {"logit": float32[n], "cam": float32[n,c,c]}` with `c = size / 32`.

    `weights`: None for random weights, or a file (see `load_weights.take_over`). `pixels`: the scale of pixels on which
    the weights were trained.

    The weights do not depend on `size`: those of a network that was trained at one size fit a network of another size.

    Raises:
        ValueError: `size` is not a positive multiple of 32.
        WeightsError: the weights cannot be read, or do not fit.
    """
    if size < 32 or size % 32:
        raise ValueError(f"the side of a slice must be a positive multiple of 32, not {size}")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    slices = keras.Input((size, size, 1), dtype="uint8", name="slices")
    grey = layers.Concatenate(name="grey_to_rgb")([slices, slices, slices])
    base = keras.applications.ResNet50(include_top=False, weights=None, input_tensor=pixel_layer(pixels)(grey))
    logit, cam = _head(base.output, hidden, dropout)
    model = keras.Model(slices, {"logit": logit, "cam": cam}, name="ctbatch_resnet50")
    if weights is not None:
        take_over(model, weights)
    return model


def start_residuals_at_zero(network: keras.Model) -> None:
    """Let each residual block start as the identity, so that random weights learn faster (Goyal et al., 2017)."""
    for layer in network.layers:
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(layer.gamma * 0)


def _head(features: Any, hidden: int, dropout: float) -> tuple[Any, Any]:
    """Build the pooled head on `features[n,c,c,2048]`, and its Grad-CAM as a formula.

    With `h = relu(W^T mean(A) + b)` and `logit = w_out . h + b_out`, the gradient of the logit by the mean of channel k
    is `alpha_k = sum_j W_kj 1[h_j > 0] w_out_j`, and Grad-CAM (Selvaraju et al., 2017) is `relu(sum_k alpha_k A_k)`.
    The code applies the two dense layers to each cell, and subtracts their biases. In between, it sets hidden unit j to
    0 where `h_j` of the pooled vector is 0. The result is `sum_k alpha_k A_k` for each cell. So the same layers compute
    the map, and no kernel has to be read out. The mean of the map before the relu is the logit without the contribution
    of the biases.
    """
    cells = int(features.shape[1])
    dense = layers.Dense(hidden, name="hidden")
    output = layers.Dense(1, name="output", dtype="float32")
    pooled = layers.Flatten(name="flatten")(layers.AveragePooling2D(cells, name="pool")(features))
    before = dense(pooled)
    kept = layers.Dropout(dropout, name="dropout")(layers.ReLU(name="hidden_relu")(before))
    logit = ops.squeeze(output(kept), axis=-1)

    gate = ops.reshape(ops.cast(ops.greater(before, 0), before.dtype), (-1, 1, 1, hidden))
    bias = ops.reshape(dense(ops.zeros_like(pooled)), (-1, 1, 1, hidden))
    gated = ops.multiply(ops.subtract(dense(features), bias), gate)
    evidence = ops.subtract(output(gated), output(ops.zeros_like(gated)))
    return logit, ops.relu(ops.squeeze(evidence, axis=-1))
