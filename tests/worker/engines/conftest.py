"""A package of a network with random weights, whose scores spread, published once for all tests of engines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from db.evaluation.result import VersionMetrics
from db.registry.manifest import Package
from tests.builders.networks import small_resnet
from training.data.slices import Labelled


@pytest.fixture(scope="session")
def slices() -> np.ndarray[Any, Any]:
    """uint8[24, 224, 224]: coarse random patterns of different contrast."""
    rng = np.random.default_rng(4)
    coarse = rng.integers(0, 256, (24, 14, 14)) * np.linspace(0.1, 1, 24)[:, None, None]
    return coarse.astype(np.uint8).repeat(16, 1).repeat(16, 2)


@pytest.fixture(scope="session", params=["small", pytest.param("ResNet50", marks=pytest.mark.slow)])
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, slices: np.ndarray[Any, Any]
) -> tuple[Path, Package, list[tuple[Any, ...]]]:
    """The folder, the package, and the network addresses that publishing connected to.

    The small network is made of the same layers as the real one, and is published in a fraction of the time.
    """
    import sys

    import keras

    from training.export.openvino import export, write_manifest
    from training.network.resnet50 import build_network

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "small":
            patch.setattr(keras.applications, "ResNet50", small_resnet)
        model = build_network(224, seed=3)
    _spread(model, slices)
    connections: list[tuple[Any, ...]] = []
    sys.addaudithook(lambda event, args: connections.append(args) if event == "socket.connect" else None)
    folder = tmp_path_factory.mktemp("engines") / "package"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.export.quantise.CALIBRATION_SLICES", 8)
        exported = export(model, folder, labelled_parts(model, slices), "youden", seed=3)
    package = write_manifest(exported, name="random", note="random weights", metrics=VersionMetrics())
    return folder, package, list(connections)


def labelled_parts(model: Any, slices: np.ndarray[Any, Any]) -> dict[str, Labelled]:
    """The three parts that an export needs, labelled by the model's own verdicts; each slice is a group of its own."""
    turned = {"train": slices[:, ::-1], "validation": slices[:, :, ::-1], "test": slices}
    groups = [str(number) for number in range(len(slices))]

    def labelled(pixels: np.ndarray[Any, Any]) -> Labelled:
        logit = np.asarray(model.predict(pixels[..., None], verbose=0)["logit"])
        return Labelled(np.ascontiguousarray(pixels), (logit > np.median(logit)).astype(np.uint8), groups)

    return {name: labelled(pixels) for name, pixels in turned.items()}


def _spread(model: Any, slices: np.ndarray[Any, Any]) -> None:
    """Scale and shift the last layer so that logits have mean 0 and deviation 2."""
    logit = model.predict(slices[..., None], verbose=0)["logit"]
    kernel, bias = model.get_layer("output").get_weights()
    factor = 2 / logit.std()
    model.get_layer("output").set_weights([kernel * factor, (bias - logit.mean()) * factor])
