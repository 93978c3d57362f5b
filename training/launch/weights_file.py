"""Whether a file can be initial weights, told without Keras: where a run is launched there is none."""

import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import h5py

from db.registry.keras_safety import HarmfulModel, check_keras_archive
from training.errors import WeightsError

BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # ResNet50's: channels inside, how many
IN_ARCHIVE = "model.weights.h5"  # of a `.keras` file
Shapes = Counter[tuple[int, ...]]


def check_weights_file(path: Path) -> None:
    """Raises WeightsError where a file lacks an array of the shape of one in ResNet50's base, cannot be read, or is a
    `.keras` file that names more than Keras's own parts.

    What `load_weights.take_over` takes is let pass; what it refuses by the names of layers is not seen here.
    """
    try:
        with path.open("rb") as file:
            found = _shapes_in(_hdf5(file, path))
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(path, f"cannot be read as Keras weights: {error}") from error
    if missing := base_shapes() - found:
        shape = next(iter(missing))
        raise WeightsError(
            path, f"holds no ResNet50 of Keras's making: it lacks {missing.total()} arrays, one of the shape {shape}"
        )


def check_archive(path: Path) -> None:
    """Raises WeightsError where a `.keras` file names more than Keras's own parts: it could run code of its maker's."""
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
    found: Shapes = Counter()

    def note(_: str, each: Any) -> None:
        if isinstance(each, h5py.Dataset):
            found[each.shape] += 1

    with h5py.File(source, "r") as file:
        file.visititems(note)
    return found


def base_shapes() -> Shapes:
    """Of the arrays of ResNet50 without its top: each convolution's kernel and bias, and four of its normalisation."""
    convolutions = [(7, 3, 64)]  # side, channels in, channels out
    channels = 64
    for width, blocks in BLOCKS:
        convolutions.append((1, channels, 4 * width))  # of the first block's shortcut
        for _ in range(blocks):
            convolutions += [(1, channels, width), (3, width, width), (1, width, 4 * width)]
            channels = 4 * width
    found: Shapes = Counter()
    for side, entering, leaving in convolutions:
        found[side, side, entering, leaving] += 1
        found[(leaving,)] += 5
    return found
