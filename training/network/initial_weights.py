"""The network that training begins with: random weights, a file's, ImageNet's, or a model version's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from db.database import read_scope
from db.registry import versions
from db.registry.manifest import KERAS_FILE
from db.storage import storage
from training.config import Config
from training.launch.weights_file import WeightsError
from training.network.imagenet import imagenet_weights
from training.network.resnet50 import build_network


def initial_network(config: Config, seed: int, alive: Callable[[], None], *, from_file: bool = True) -> Any:
    """The network, at full size; `from_file=False` leaves it random whatever the config says. Seeds Keras too.

    Raises WeightsError, and what `initial_weights` raises.
    """
    keras.utils.set_random_seed(seed)
    weights = initial_weights(config, alive) if from_file else None
    try:
        return build_network(weights=weights, hidden=config.hidden, dropout=config.dropout, seed=seed)
    except WeightsError as error:  # people know the file by another name than storage does
        raise WeightsError(str(error).replace(str(weights), "the weights file")) from error


def initial_weights(config: Config, alive: Callable[[], None]) -> Path | None:
    """What `build_network` starts from; `alive` is called while ImageNet's weights are downloaded.

    Raises FileMissing, FileDamaged, WeightsError, RuntimeError, and what `alive` raises.
    """
    if config.initial == "none":
        return None
    if config.initial == "imagenet":
        return imagenet_weights(alive)
    kind, _, name = config.initial.partition(":")
    if kind == "file":
        return storage().verified_path(name)
    with read_scope() as s:
        version = versions.find_version(s, name)
    if version is None:
        raise RuntimeError(f"there is no model version {name} to start from")
    return versions.package_folder(version) / KERAS_FILE
