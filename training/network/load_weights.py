"""Loads initial weights from a file layer by layer. The file may have any form of ResNet50."""

import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from numpy.typing import NDArray

from training.errors import WeightsError
from training.launch.weights_file import check_archive, shapes_in

Layers = dict[str, list[NDArray[Any]]]
"""Arrays by layer name, in Keras's order: kernel, bias; or gamma, beta, mean, variance."""

HEAD = ("hidden", "output")


def take_over(model: Any, path: Path) -> None:
    """Put the weights of a file into the base of `model`, and into the head if the file has a head of the same shape.

    The file is HDF5 or a `.keras` archive. An HDF5 file holds the ResNet50 of Keras 2 or 3, with or without its top (as
    `keras.applications` and RadImageNet publish it). An HDF5 file holds the whole model, or only its weights. An
    archive holds a ResNet50 of Keras, or one of our models. Layers are found by Keras's names (conv1_conv …
    conv5_block3_3_bn).

    Raises WeightsError: the file does not exist, or has another format or architecture.
    """
    if not path.is_file():
        raise WeightsError(path, "does not exist")
    shapes_in(path)  # refuses a file that names other files, before this process reads the file
    try:
        weights = _read(path, model)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(path, f"cannot be read as Keras weights: {error}") from error
    base = [layer for layer in model.layers if layer.weights and layer.name not in HEAD]
    for layer in base:
        _set(layer, weights.get(layer.name), path)
    for name in HEAD:
        layer = model.get_layer(name)
        if _fits(layer, weights.get(name)):
            layer.set_weights(weights[name])


def _set(layer: Any, arrays: list[NDArray[Any]] | None, path: Path) -> None:
    if not arrays:
        raise WeightsError(path, f"holds no layer {layer.name}: it is not a ResNet50 of Keras's making")
    if not _fits(layer, arrays):
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise WeightsError(path, f"holds another architecture: its {layer.name} has the shapes {shapes}")
    layer.set_weights(arrays)


def _fits(layer: Any, arrays: list[NDArray[Any]] | None) -> bool:
    return arrays is not None and [tuple(w.shape) for w in layer.weights] == [tuple(a.shape) for a in arrays]


def _read(path: Path, model: Any) -> Layers:
    if zipfile.is_zipfile(path):
        return _of_archive(path)
    if not h5py.is_hdf5(path):
        raise WeightsError(path, "is neither HDF5 (.h5) nor a .keras file")
    with h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        if "layer_names" in group.attrs:
            return _of_hdf5(group)
    return _of_keras3_weights(path, model)


def _of_archive(path: Path) -> Layers:
    """Read a `.keras` file. Keras recognises it only by its name, and files in storage have no such name."""
    check_archive(path)
    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        named = Path(folder) / "model.keras"
        shutil.copyfile(path, named)
        loaded = keras.models.load_model(named, compile=False, safe_mode=True)
    return {layer.name: layer.get_weights() for layer in _all_layers(loaded) if layer.weights}


def _all_layers(model: Any) -> list[Any]:
    """Return the layers of a model and of the models inside it."""
    layers = []
    for layer in model.layers:
        layers += _all_layers(layer) if hasattr(layer, "layers") else [layer]
    return layers


def _of_hdf5(group: Any) -> Layers:
    """Read the format of Keras 2, in which `keras.applications` still publishes weights."""
    layers: Layers = {}
    for name in map(_text, group.attrs["layer_names"]):
        part = group[name]
        weights = [_text(weight) for weight in part.attrs["weight_names"]]
        by_layer: Layers = {}
        for weight in weights:  # an inner model has the weights of all its layers under one name
            layer = weight.split("/")[-2] if "/" in weight else name
            by_layer.setdefault(layer, []).append(np.asarray(part[weight]))
        layers |= by_layer if len(by_layer) > 1 else {name: [np.asarray(part[weight]) for weight in weights]}
    return layers


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _of_keras3_weights(path: Path, model: Any) -> Layers:
    """Read a `.weights.h5` of Keras 3. Layers there have numbers, not names, so only the same network fits."""
    base = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(224, 224, 3))
    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        named = Path(folder) / "file.weights.h5"
        shutil.copyfile(path, named)
        for whole in (base, model):
            try:
                with warnings.catch_warnings(action="error"):  # Keras only warns if it leaves layers unchanged
                    whole.load_weights(named)
            except (ValueError, KeyError, OSError, Warning):
                continue
            return {layer.name: layer.get_weights() for layer in whole.layers if layer.weights}
    raise WeightsError(path, "holds weights of another architecture")
