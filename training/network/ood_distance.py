"""Adds an output to a network: how far a slice is from the training slices, by the network's pooled features.

Follows Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples" (NeurIPS 2018): the
Mahalanobis distance over features of several depths. Here the distance is computed in the space of the features'
principal components. The part that the components do not explain counts as one more component. Early features show
noise and inverted greys. Late features show pictures that are not a chest. All layers are stock layers, so the distance
is exported with the network, and needs no extra pass.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from training.network.training_copy import predict

DEPTHS = ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
WIDTHS = (256, 512, 1024, 2048)  # number of features of each depth
SOFTENED = 0.2  # this share of a depth's mean deviation is added to the deviation of each feature
COMPONENTS = 64
KNOWN_SHARE = 0.98  # share of validation slices that are below the limit
MARGIN = 1.25  # unseen patients have larger distances than validation slices do (non-CT images: twice as large)
RESIDUAL_WEIGHT = 16.0  # weight of the unexplained part, relative to one component


def pooled_features(network: Any) -> Any:
    """Build a model that averages the features of each depth over a slice: uint8[n,s,s,1] to float32[n, 3840]."""
    means = [layers.GlobalAveragePooling2D(name=f"mean_{name}")(network.get_layer(name).output) for name in DEPTHS]
    return keras.Model(network.input, layers.Concatenate(name="pooled_features")(means))


def with_distance(
    network: Any, slices: NDArray[np.uint8], *, most: int = 768, alive: Callable[[], None] = lambda: None
) -> Any:
    """Add an output `distance`, float32[n], which is fitted to slices that the network was trained on.

    `slices`: uint8[n,s,s]. At most `most` slices are used, and every second slice is mirrored. Most distances
    are near 1. `alive` is called after each batch.
    """
    extractor = pooled_features(network)
    sample = slices[np.linspace(0, len(slices) - 1, min(most, len(slices))).astype(int)].copy()
    sample[1::2] = sample[1::2, :, ::-1]
    features = predict(extractor, sample[..., None], alive)
    distance = _distance(extractor.output, np.asarray(features, np.float64))
    return keras.Model(network.input, {**network.output, "distance": distance}, name=network.name)


def _distance(features: Any, trained: NDArray[np.float64]) -> Any:
    """Build the layers that compute the distance from `features`. Fit their weights to `trained`, float64[n, d]."""
    mean, deviation = trained.mean(0), _deviation(trained)
    scaled = (trained - mean) / deviation
    count = max(min(COMPONENTS, len(trained) // 4), 1)  # with more, there would be no remainder to measure
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    variance = np.maximum(values[:count] ** 2 / len(trained), 1e-9)
    rest = max(float((scaled**2).sum(1).mean() - variance.sum()), 1e-9)

    normalise = layers.Normalization(mean=mean, variance=deviation**2, name="scaled_features")
    project = layers.Dense(count, use_bias=False, name="components")
    scaled_features = normalise(features)
    squares = ops.square(project(scaled_features))
    project.set_weights([directions[:count].T.astype(np.float32)])
    within = layers.Dense(1, use_bias=False, name="within")
    along = layers.Dense(1, use_bias=False, name="along")
    inside = within(squares)
    within.set_weights([(1 / variance / (count + 1))[:, None].astype(np.float32)])
    covered = along(squares)
    along.set_weights([np.ones((count, 1), np.float32)])
    left = ops.relu(ops.sum(ops.square(scaled_features), -1, keepdims=True) - covered)
    total = (inside + left * (RESIDUAL_WEIGHT / (rest * (count + 1)))) / (1 + (RESIDUAL_WEIGHT - 1) / (count + 1))
    return ops.squeeze(ops.sqrt(total), -1)


def _deviation(trained: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the deviation of each feature. It is never much less than the mean deviation of the feature's depth.

    Otherwise a feature that is almost always 0 would outweigh all others.
    """
    deviation = trained.std(0)
    widths = [*WIDTHS[:-1], trained.shape[1] - sum(WIDTHS[:-1])]
    means = [part.mean() for part in np.split(deviation, np.cumsum(widths)[:-1])]
    return np.asarray(deviation + np.repeat(means, widths) * SOFTENED + 1e-9)


def threshold_of(distance: NDArray[np.floating[Any]]) -> float:
    """Return the limit above which a slice is out of distribution. `distance`: [n], of slices not trained on."""
    return MARGIN * far_end(distance)


def far_end(distance: NDArray[np.floating[Any]]) -> float:
    """Return a distance that is above nearly all of these [n]."""
    return float(np.quantile(np.asarray(distance, np.float64), KNOWN_SHARE))
