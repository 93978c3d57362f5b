"""Gets ImageNet's weights for ResNet50: the file of Keras, from its cache or by download."""

import socket
from collections.abc import Callable
from pathlib import Path

import keras

from db.background import run_with_heartbeat
from training.errors import RunFailed

FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
ORIGIN = f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{FILE}"
MD5 = "4d473c1dd8becc155b73f8504c6f6626"  # from `keras.applications`
SILENT_SECONDS = 30.0  # the download fails after this time without a byte


def imagenet_weights(
    alive: Callable[[], None], *, origin: str = ORIGIN, silent_seconds: float = SILENT_SECONDS
) -> Path:
    """Return the file. Download it from `origin` unless it is in Keras's cache. `alive` is called each second.

    Raises RunFailed. Raises what `alive` raises; the download then goes on in its thread.
    """
    earlier = socket.getdefaulttimeout()
    socket.setdefaulttimeout(silent_seconds)  # Keras downloads with urlretrieve, which has no timeout
    try:
        return run_with_heartbeat(lambda: _download(origin), alive)
    finally:
        socket.setdefaulttimeout(earlier)


def _download(origin: str) -> Path:
    try:
        return Path(keras.utils.get_file(FILE, origin, cache_subdir="models", file_hash=MD5))
    except Exception as error:  # Keras raises bare Exception for a failed download
        raise RunFailed(
            f"ResNet50's ImageNet weights could not be downloaded ({error}). On a machine with a network, fetch "
            f"{FILE} from Keras's applications and start from that file (--from FILE); or train without pretrained "
            "weights (--preset scratch)"
        ) from error
