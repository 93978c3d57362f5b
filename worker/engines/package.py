"""A model version as a folder: its manifest `package.json`, and the files whose SHA-256 it states."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MANIFEST = "package.json"
KERAS_FILE = "model.keras"
FLOAT_FILE, INT8_FILE = "model.xml", "model-int8.xml"  # OpenVINO's


class PackageError(Exception):
    """A package is incomplete, damaged, or made for something else."""


@dataclass(frozen=True)
class Package:
    """A model version as its manifest describes it.

    `files` maps file name to SHA-256. A probability is calibrated by `temperature`, and positive from `threshold` on;
    both are float32's. `calibration` gives an engine's own two by its name. `ood`: the distance above which a slice is
    out of distribution, `threshold` in float32, and by its name each engine's own; empty if the network has no
    distance. `proof`: what the proof's slices are, and the tolerance of each precision. `extra`: the facts of its
    making.
    """

    name: str
    note: str
    recipe: str
    threshold: float
    temperature: float
    files: dict[str, str]
    metrics: dict[str, Any]
    parity: dict[str, Any]
    dataset_hash: str | None
    created_at: str
    extra: dict[str, Any] = field(default_factory=dict)
    ood: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    proof: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the manifest into the package's folder."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


class Calibrated(Protocol):
    """Something with a calibration: a package, or a model version's row."""

    @property
    def temperature(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def calibration(self) -> Mapping[str, Mapping[str, float]]: ...


def calibration_of(version: Calibrated, engine: str) -> tuple[float, float]:
    """Return the temperature and the threshold of the engine of this name."""
    own = version.calibration.get(engine, {})
    return own.get("temperature", version.temperature), own.get("threshold", version.threshold)


def probability(logit: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """Return calibrated probabilities, float64[n] in 0..1, of logits [n]."""
    scaled = np.asarray(logit, np.float64) / temperature
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scaled)))


def limit_of(ood: Mapping[str, float], engine: str) -> float | None:
    """Return the distance above which the engine of this name flags a slice, by a manifest's `ood`, or None."""
    return ood.get(engine, ood.get("threshold"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_package(folder: Path) -> Package:
    """Read the manifest and check every file against it.

    Raises PackageError if the manifest cannot be read, or a file is missing or has other bytes.
    """
    try:
        package = Package(**json.loads((folder / MANIFEST).read_text()))
    except OSError as error:
        raise PackageError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise PackageError(f"{MANIFEST} is not a manifest: {error}") from error
    for name, sha256 in package.files.items():
        if Path(name).name != name:
            raise PackageError(f"{name!r} is not a plain file name")
        if not (folder / name).is_file():
            raise PackageError(f"{name} is missing")
        if sha256_of(folder / name) != sha256:
            raise PackageError(f"{name} holds other bytes than the package was made with")
    return package
