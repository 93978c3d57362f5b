"""Whether a file can be initial weights, told without Keras: where a run is launched there is none."""

import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py

from db.registry.keras_safety import HarmfulModel, check_keras_archive

MAX_BYTES = 1 << 30  # ResNet50's weights take 100 MB, with an optimiser's state three times as much
BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # ResNet50's: channels inside, how many
IN_ARCHIVE = "model.weights.h5"  # of a `.keras` file
Shapes = Counter[tuple[int, ...]]


class WeightsError(RuntimeError):
    """The initial weights that were asked for cannot be had; the message says what to do instead."""


class WeightsTooLarge(WeightsError):
    """The file has more bytes than initial weights can have."""


def check_size(size: int, name: str) -> None:
    """Raises WeightsTooLarge where a file of `size` bytes, which messages call `name`, is too large."""
    if size > MAX_BYTES:
        raise WeightsTooLarge(f"{name} is too large: a file of weights has at most {MAX_BYTES >> 20} MiB")


def check_weights_file(path: Path, name: str = "") -> None:
    """Raises WeightsError where a file is too large, lacks an array of the shape of one in ResNet50's base, cannot be
    read, or is a `.keras` file that names more than Keras's own parts. Messages call it `name`, else by its path.

    What `load_weights.take_over` takes is let pass; what it refuses by the names of layers is not seen here.
    """
    name = name or str(path)
    try:
        check_size(path.stat().st_size, name)
        with _hdf5(path, name) as file:
            found = _shapes_in(file)
    except WeightsError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{name} cannot be read as Keras weights: {error}") from error
    if missing := base_shapes() - found:
        shape = next(iter(missing))
        raise WeightsError(
            f"{name} holds no ResNet50 of Keras's making: it lacks {missing.total()} arrays, one of the shape {shape}"
        )


def check_archive(path: Path, name: str = "") -> None:
    """Raises WeightsError where a `.keras` file names more than Keras's own parts: it could run code of its maker's."""
    try:
        check_keras_archive(path)
    except HarmfulModel as error:
        raise WeightsError(f"{name or path} {error}") from error


@contextmanager
def _hdf5(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open the HDF5 file; one in an archive is copied out, beside it, as HDF5 is read from many places."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            check_archive(path, name)
            with zipfile.ZipFile(file) as archive, tempfile.TemporaryFile(dir=path.parent) as copy:
                with archive.open(IN_ARCHIVE) as member:
                    shutil.copyfileobj(member, copy)
                yield copy
        elif h5py.is_hdf5(path):
            yield file
        else:
            raise WeightsError(f"{name} is neither HDF5 (.h5) nor a .keras file")


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
