"""Checks a file of initial weights without Keras, which is not installed wherever runs are launched."""

import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import h5py

from db.registry.keras_safety import HarmfulModel, check_keras_archive
from training.errors import WeightsError

BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # of ResNet50: channels inside, how many
IN_ARCHIVE = "model.weights.h5"  # of a `.keras` file
Shapes = Counter[tuple[int, ...]]


def check_weights_file(path: Path) -> None:
    """Raise WeightsError if a file cannot be read, or lacks an array of the shape of one in ResNet50's base.

    Raise it too for a `.keras` file that names more than Keras's own parts. Whatever `load_weights.take_over` accepts
    passes; what it refuses by the names of layers passes too.
    """
    try:
        with path.open("rb") as file:
            shapes = _shapes_in(_hdf5(file, path))
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(path, f"cannot be read as Keras weights: {error}") from error
    if missing := base_shapes() - shapes:
        shape = next(iter(missing))
        raise WeightsError(
            path, f"holds no ResNet50 of Keras's making: it lacks {missing.total()} arrays, one of the shape {shape}"
        )


def check_archive(path: Path) -> None:
    """Raise WeightsError if a `.keras` file names more than Keras's own parts: it could run its maker's code."""
    try:
        check_keras_archive(path)
    except HarmfulModel as error:
        raise WeightsError(path, str(error)) from error


def _hdf5(file: IO[bytes], path: Path) -> IO[bytes]:
    if zipfile.is_zipfile(file):
        check_archive(path)
        with zipfile.ZipFile(file) as archive:
            return io.BytesIO(archive.read(IN_ARCHIVE))
    if not h5py.is_hdf5(path):
        raise WeightsError(path, "is neither HDF5 (.h5) nor a .keras file")
    return file


def _shapes_in(source: IO[bytes]) -> Shapes:
    shapes: Shapes = Counter()

    def count(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            shapes[item.shape] += 1

    with h5py.File(source, "r") as file:
        file.visititems(count)
    return shapes


def base_shapes() -> Shapes:
    """Return the shapes of ResNet50 without its top: kernel and bias of each convolution, four of its normalisation."""
    convolutions = [(7, 3, 64)]  # side, channels in, channels out
    channels = 64
    for width, blocks in BLOCKS:
        convolutions.append((1, channels, 4 * width))  # of the first block's shortcut
        for _ in range(blocks):
            convolutions += [(1, channels, width), (3, width, width), (1, width, 4 * width)]
            channels = 4 * width
    shapes: Shapes = Counter()
    for side, entering, leaving in convolutions:
        shapes[side, side, entering, leaving] += 1
        shapes[(leaving,)] += 5
    return shapes
