"""Checks a file of initial weights without Keras, because machines that launch runs may not have Keras."""

import zipfile
from collections import Counter
from pathlib import Path

from db.registry.keras_safety import HarmfulModel, check_keras_archive
from training.errors import MAX_WEIGHTS_BYTES, WeightsError, WeightsTooLarge
from worker.hdf5 import Shapes, read_shapes

BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # of ResNet50: channels inside a block, number of blocks


def check_size(size: int, name: str) -> None:
    """Raise WeightsTooLarge if a file of `size` bytes is too large. `name`: the name of the file in messages."""
    if size > MAX_WEIGHTS_BYTES:
        raise WeightsTooLarge(name, f"is too large: a file of weights has at most {MAX_WEIGHTS_BYTES >> 20} MiB")


def check_weights_file(path: Path, name: str = "") -> None:
    """Raise WeightsError if a file is too large, cannot be read, or lacks an array of a shape in ResNet50's base.

    Also raise it for a `.keras` file that names other classes than those of Keras. `name`: the name of the file in
    messages, by default its path. Every file that `load_weights.take_over` accepts passes. Some files that it refuses,
    because of their layers' names, pass too.
    """
    name = name or str(path)
    try:
        check_size(path.stat().st_size, name)
        shapes = shapes_in(path, name)
    except OSError as error:
        raise WeightsError(name, f"cannot be read as Keras weights: {error}") from error
    if missing := base_shapes() - shapes:
        shape = next(iter(missing))
        raise WeightsError(
            name, f"holds no ResNet50 of Keras's making: it lacks {missing.total()} arrays, one of the shape {shape}"
        )


def check_archive(path: Path, name: str = "") -> None:
    """Raise WeightsError if a `.keras` file names other classes than those of Keras, and so could run code."""
    try:
        check_keras_archive(path)
    except HarmfulModel as error:
        raise WeightsError(name or path, str(error)) from error


def shapes_in(path: Path, name: str = "") -> Shapes:
    """Count the arrays of a file by shape. A confined process reads the file.

    Raises WeightsError: the file cannot be read, names other files, or could run code of its maker.
    """
    if zipfile.is_zipfile(path):
        check_archive(path, name)
    try:
        return read_shapes(path)
    except HarmfulModel as error:
        raise WeightsError(name or path, str(error)) from error


def base_shapes() -> Shapes:
    """Count the weight shapes of ResNet50 without its top.

    Each convolution has a kernel and a bias, and its normalisation has four vectors.
    """
    convolutions = [(7, 3, 64)]  # side, channels in, channels out
    channels = 64
    for width, blocks in BLOCKS:
        convolutions.append((1, channels, 4 * width))  # the shortcut of the first block
        for _ in range(blocks):
            convolutions += [(1, channels, width), (3, width, width), (1, width, 4 * width)]
            channels = 4 * width
    shapes: Shapes = Counter()
    for side, entering, leaving in convolutions:
        shapes[side, side, entering, leaving] += 1
        shapes[(leaving,)] += 5
    return shapes
