"""Reads a model version from a folder: the manifest `package.json`, and the files that it lists with their SHA-256."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.registry.manifest import MANIFEST, OF_SLICES, BadManifest, Package, parse_manifest


class PackageError(Exception):
    """A package is incomplete or damaged, or is made for something else."""


def probability(logit: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """Return the calibrated probabilities of n logits, float64[n] from 0 to 1."""
    scaled = np.asarray(logit, np.float64) / temperature
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scaled)))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_package(folder: Path) -> Package:
    """Read the manifest and check every file against it. Files that show slices may be missing.

    Raises PackageError if the manifest cannot be read, or if a file is missing or has another SHA-256.
    """
    try:
        package = parse_manifest((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise PackageError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except BadManifest as error:
        raise PackageError(str(error)) from error
    for name, sha256 in package.files.items():
        if not (folder / name).is_file():
            if name in OF_SLICES:
                continue
            raise PackageError(f"{name} is missing")
        if sha256_of(folder / name) != sha256:
            raise PackageError(f"{name} holds other bytes than the package was made with")
    return package
