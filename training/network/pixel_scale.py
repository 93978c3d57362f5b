"""The scale of pixels for a network, and a check that initial weights were trained on that scale."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from training.config import PIXELS, Pixels
from training.errors import WeightsError

CHECKED_SLICES = 64
MOST_OFF = 10.0  # the largest factor by which a variance may differ from the one that normalisation expects

# The values of keras.applications.imagenet_utils: blue, green, red; and red, green, blue. A grey slice has three equal
# channels, so turning RGB into BGR changes nothing.
_CAFFE_MEAN_BGR = np.array([103.939, 116.779, 123.68])
_TORCH_MEAN, _TORCH_DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def pixel_layer(pixels: Pixels) -> Any:
    """Return the layer that puts grey levels 0..255, [n,h,w,3], on a scale. It is saved and exported with the network.

    `caffe`: minus ImageNet's mean, as for ResNet50 of `keras.applications`. `caffe/255`: the same divided by 255, as
    for RadImageNet. `unit`: 0 to 1. `tf`: -1 to 1. `torch`: 0 to 1, minus ImageNet's mean, divided by its deviation.
    """
    ones = np.ones(3)
    factor, offset = {
        "caffe": (ones, -_CAFFE_MEAN_BGR),
        "caffe/255": (ones / 255, -_CAFFE_MEAN_BGR / 255),
        "unit": (ones / 255, 0 * ones),
        "tf": (ones / 127.5, -ones),
        "torch": (1 / (255 * _TORCH_DEVIATION), -_TORCH_MEAN / _TORCH_DEVIATION),
    }[pixels]
    return layers.Rescaling(factor.tolist(), offset=offset.tolist(), dtype="float32", name="imagenet_mean")


def check_pixels(network: Any, slices: NDArray[np.uint8], pixels: Pixels) -> None:
    """Raise WeightsError if another scale fits the network far better, because it was trained on that scale.

    The outputs of the first layer for slices, uint8[n,s,s], are compared with those that its normalisation expects.
    Their variance must be right within a factor of 10, or closer than on any other scale. (A network that was trained
    on photographs need not fit well.) The message names the scales that fit, with the closest in mean and variance
    first (by the Kullback-Leibler divergence of two normal distributions).
    """
    few = slices[np.linspace(0, len(slices) - 1, min(CHECKED_SLICES, len(slices))).astype(int)]
    ratios, misfits = {}, {}
    for scale in PIXELS:
        ratios[scale], misfits[scale] = _misfit(network, few, scale)
    off = {scale: max(ratio, 1 / ratio) for scale, ratio in ratios.items()}
    closer = [scale for scale in PIXELS if off[scale] < off[pixels]]
    if off[pixels] <= MOST_OFF or not closer:
        return
    fit = sorted([scale for scale in closer if off[scale] <= MOST_OFF] or closer, key=lambda scale: misfits[scale])
    others = f" fits best, and {', '.join(fit[1:])} may fit too" if len(fit) > 1 else ""
    raise WeightsError(
        "",
        f"was not trained on pixels on the scale {pixels}: the variance after the first layer is {ratios[pixels]:.3g}"
        f" times what the weights expect; choose another scale: the setting pixels={fit[0]}{others}",
    )


def _misfit(network: Any, slices: NDArray[np.uint8], pixels: Pixels) -> tuple[float, float]:
    """Return the variance of the first layer's outputs as a multiple of the expected variance, and the divergence.

    Both are medians over the channels.
    """
    pad, convolve, normal = (network.get_layer(f"conv1_{name}") for name in ("pad", "conv", "bn"))
    answers = ops.cast(convolve(pad(pixel_layer(pixels)(np.repeat(slices[..., None], 3, -1)))), "float32")
    mean, variance = (
        np.asarray(keras.ops.convert_to_numpy(one), np.float64) for one in ops.moments(answers, (0, 1, 2))
    )
    expected_mean, expected = np.asarray(normal.get_weights()[2:], np.float64)
    expected = expected + normal.epsilon
    ratio = np.maximum(variance, 1e-12) / expected
    divergence = (ratio + (mean - expected_mean) ** 2 / expected - 1 - np.log(ratio)) / 2
    return float(np.median(ratio)), float(np.median(divergence))
