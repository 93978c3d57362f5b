"""Pixels reach the network on the scale that its weights were trained on, and another scale is noticed."""

import numpy as np
import pytest

from training.config import PIXELS
from training.errors import WeightsError

SIDE = 32


def lungs(count: int = 80) -> np.ndarray:
    """Slices as dark and as rich in contrast as those of a chest."""
    rng = np.random.default_rng(0)
    blocks = rng.choice([0, 20, 60, 180, 255], (count, 4, 4)).repeat(8, 1).repeat(8, 2)
    return np.clip(blocks + rng.normal(0, 12, blocks.shape), 0, 255).astype(np.uint8)


def by_keras(pixels: str, grey: np.ndarray) -> np.ndarray:
    """Grey levels [n,h,w] as the published preprocessing of each kind gives them, in RGB or BGR."""
    from keras.applications import resnet50
    from keras.src.applications.imagenet_utils import preprocess_input

    rgb = np.repeat(grey[..., None], 3, -1).astype(np.float32)
    return {
        "caffe": lambda: resnet50.preprocess_input(rgb),
        "caffe/255": lambda: resnet50.preprocess_input(rgb) / 255,  # ImageDataGenerator rescales last
        "unit": lambda: rgb / 255,
        "tf": lambda: preprocess_input(rgb, mode="tf"),
        "torch": lambda: preprocess_input(rgb, mode="torch"),
    }[pixels]()


@pytest.mark.parametrize("pixels", PIXELS)
def test_scale_is_that_of_the_published_preprocessing(pixels, small_network):
    import keras

    from training.network.resnet50 import build_network

    network = build_network(SIDE, pixels=pixels, hidden=8)
    first = keras.Model(network.input, network.get_layer("conv1_pad").input)
    grey = lungs(3)
    np.testing.assert_allclose(np.asarray(first(grey[..., None])), by_keras(pixels, grey), atol=1e-4)


def network_trained_on(scale: str):
    """A network whose first normalisation knows slices on this scale."""
    import keras

    from training.network.resnet50 import build_network

    network = build_network(SIDE, pixels=scale, hidden=8, seed=3)
    first = keras.Model(network.input, network.get_layer("conv1_conv").output)
    answers = np.asarray(first(lungs()[..., None]))
    gamma, beta, *_ = network.get_layer("conv1_bn").get_weights()
    network.get_layer("conv1_bn").set_weights([gamma, beta, answers.mean((0, 1, 2)), answers.var((0, 1, 2))])
    return network


@pytest.mark.parametrize("scale", PIXELS)
def test_right_scale_passes(scale, small_network):
    from training.network.pixel_scale import check_pixels

    check_pixels(network_trained_on(scale), lungs()[::-1], scale)


@pytest.mark.parametrize(
    ("trained", "given"), [("caffe/255", "caffe"), ("unit", "caffe"), ("torch", "caffe"), ("tf", "caffe"),
                           ("caffe", "unit"), ("unit", "torch")],
)  # fmt: skip
def test_wrong_scale_is_refused_with_the_one_that_fits(trained, given, small_network):
    from training.network.pixel_scale import check_pixels

    with pytest.raises(WeightsError, match=rf"on the scale {given}: .*setting pixels={trained}( |$)"):
        check_pixels(network_trained_on(trained), lungs(), given)


def test_weights_of_photographs_pass_although_no_scale_fits_well(small_network):
    """Colour layers answer little to grey slices: their variance may be far below what photographs gave."""
    from training.network.pixel_scale import check_pixels

    network = network_trained_on("caffe")
    normal = network.get_layer("conv1_bn")
    *kept, variance = normal.get_weights()
    normal.set_weights([*kept, variance * 30])
    check_pixels(network, lungs(), "caffe")


@pytest.mark.slow
def test_scale_survives_a_copy_for_training_and_saving(small_network, tmp_path):
    import keras

    from training.config import Augment, Config, Stage
    from training.network.resnet50 import build_network
    from training.network.training_copy import training_copy

    stage = Stage(name="head", unfreeze=0, epochs=1)
    config = Config(preset="test", augment=Augment(), stages=(stage,), hidden=8, pixels="torch", precision="float32")
    network = build_network(SIDE, pixels="torch", hidden=8, seed=3)
    network.save(tmp_path / "model.keras")
    slices = lungs(2)[..., None]
    for copy in (training_copy(network, SIDE, config), keras.models.load_model(tmp_path / "model.keras")):
        np.testing.assert_allclose(copy(slices)["logit"], network(slices)["logit"], atol=1e-5)
