"""Builds the network for training, with random weights, or those of a file, of ImageNet or of a model version."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from db.database import read_scope
from db.models import ModelVersion
from db.registry import versions
from db.registry.manifest import KERAS_FILE
from db.storage import storage
from training.config import Config
from training.errors import RunFailed
from training.network.imagenet import imagenet_weights
from training.network.resnet50 import build_network
from worker.engines.package import PackageError, read_package


def initial_network(config: Config, seed: int, alive: Callable[[], None], *, from_file: bool = True) -> Any:
    """Build the network at full size, and seed Keras. With `from_file=False`, the weights are always random.

    Raises WeightsError, and what `initial_weights` raises.
    """
    keras.utils.set_random_seed(seed)
    weights = initial_weights(config, alive) if from_file else None
    return build_network(weights=weights, hidden=config.hidden, dropout=config.dropout, pixels=config.pixels, seed=seed)


def initial_weights(config: Config, alive: Callable[[], None]) -> Path | None:
    """Return the file for `build_network`, or None. `alive` is called while ImageNet's weights are downloaded.

    Raises FileMissing, FileDamaged, RunFailed, and what `alive` raises.
    """
    origin = config.initial
    if origin.kind == "none":
        return None
    if origin.kind == "imagenet":
        return imagenet_weights(alive)
    if origin.kind == "file":
        return storage().verified_path(origin.value)
    with read_scope() as s:
        version = versions.find_version(s, origin.value)
    if version is None:
        raise RunFailed(f"the model version {origin.value} that the run starts from no longer exists")
    return _intact_copy(version) / KERAS_FILE


def _intact_copy(version: ModelVersion) -> Path:
    """Return this machine's copy of a version's package, after checking every hash. Replace a damaged copy."""
    folder = versions.package_folder(version)
    try:
        read_package(folder)
    except PackageError:
        versions.drop_package_folder(version)
        return versions.package_folder(version)
    return folder
