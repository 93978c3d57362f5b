"""Reads and writes the file `proof.npz` of a model package: slices and their float32 answers.

The file may come from anybody, so sizes, types and shapes are checked before anything is read into memory.
"""

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROOF_FILE = "proof.npz"
MAX_SLICES = 256
SHAPES: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "slices": (np.uint8, (224, 224)),
    "logit": (np.float32, ()),
    "cam": (np.float32, (7, 7)),
    "distance": (np.float32, ()),
}
"""The type of each array, and its shape without the first axis (the slices), by the name of the array."""
OPTIONAL = {"distance"}
MAX_BYTES = MAX_SLICES * 224 * 224 + 4096  # of the largest array, with its header


class BadProof(Exception):
    """The file cannot be used as a proof. The message says why."""


def write_proof_file(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write slices uint8[n,224,224], logit float32[n], cam float32[n,7,7] and, if there is one, distance float32[n]."""
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_proof_file(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a proof, by name.

    Raises BadProof: the file is damaged, or an array has a wrong name, type or shape, or a value that is not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _check_members(infos)
            arrays = {info.filename.removesuffix(".npy"): _read_member(archive, info) for info in infos}
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise BadProof(f"{PROOF_FILE} is damaged") from error
    _check_arrays(arrays)
    return arrays


def _check_members(infos: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    needed, possible = ({f"{name}.npy" for name in each} for each in (SHAPES.keys() - OPTIONAL, SHAPES.keys()))
    if len(names) != len(set(names)) or not needed <= set(names) <= possible:
        raise BadProof(f"{PROOF_FILE} holds other arrays than {', '.join(SHAPES)}")
    if any(info.file_size > MAX_BYTES for info in infos):
        raise BadProof(f"{PROOF_FILE} holds more than the {MAX_SLICES} slices that are accepted")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array. It may have at most MAX_BYTES bytes."""
    with archive.open(info) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadProof(f"{PROOF_FILE} holds more than it states")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _check_arrays(arrays: dict[str, NDArray[Any]]) -> None:
    count = len(arrays["slices"]) if arrays["slices"].ndim else 0
    if not 1 <= count <= MAX_SLICES:
        raise BadProof(f"{PROOF_FILE} must hold 1 to {MAX_SLICES} slices")
    for name, array in arrays.items():
        kind, shape = SHAPES[name]
        if array.dtype != kind or array.shape != (count, *shape):
            expected = f"{np.dtype(kind).name}{[count, *shape]}"
            raise BadProof(f"{name} in {PROOF_FILE} must be {expected}; it is {array.dtype.name}{list(array.shape)}")
        if not np.isfinite(array).all():
            raise BadProof(f"{name} in {PROOF_FILE} has a value that is not finite")
