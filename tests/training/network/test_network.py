"""The network's heat map is Grad-CAM: its closed form equals what autodiff gives."""

import numpy as np
import pytest


def test_heat_map_equals_grad_cam_by_autodiff() -> None:
    tensorflow = pytest.importorskip("tensorflow")
    import keras

    from training.network.resnet50 import build_network

    if keras.backend.backend() != "tensorflow":
        pytest.skip("autodiff here is TensorFlow's")
    model = build_network(64, seed=1)
    features = model.get_layer("pool").input
    probe = keras.Model(model.input, [features, model.output["cam"]])
    head = keras.Sequential([model.get_layer(n) for n in ("pool", "flatten", "hidden", "hidden_relu", "output")])
    slices = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 1), dtype=np.uint8)
    maps, cam = probe(slices, training=False)
    with tensorflow.GradientTape() as tape:
        tape.watch(maps)
        logit = head(maps, training=False)
    gradient = tape.gradient(logit, maps).numpy()
    alpha = gradient.sum((1, 2))  # of the mean over cells, as the mean is what the head sees
    expected = np.maximum((maps.numpy() * alpha[:, None, None, :]).sum(-1), 0)
    assert np.abs(cam.numpy() - expected).max() <= 1e-5 * max(float(expected.max()), 1)
    assert expected.max() > 0


@pytest.mark.parametrize("size", [0, 33, -32])
def test_side_that_is_not_a_multiple_of_32_is_refused(size: int) -> None:
    from training.network.resnet50 import build_network

    with pytest.raises(ValueError, match="multiple of 32"):
        build_network(size)
