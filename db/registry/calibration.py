"""Reads the temperature, the threshold and the distance limit of a model version for an engine."""

from collections.abc import Mapping
from typing import Any, Protocol


class Calibrated(Protocol):
    """Something with a calibration: a package, or a model version's row."""

    @property
    def temperature(self) -> float: ...
    @property
    def threshold(self) -> float: ...
    @property
    def calibration(self) -> Mapping[str, Any]: ...


def calibration_of(version: Calibrated, engine: str) -> tuple[float, float]:
    """Return the temperature and the threshold of the engine with this name."""
    own = version.calibration.get(engine, {})
    return own.get("temperature", version.temperature), own.get("threshold", version.threshold)


def limit_of(ood: Mapping[str, float], engine: str) -> float | None:
    """Return the distance above which this engine flags a slice, or None. `ood`: from a manifest."""
    return ood.get(engine, ood.get("threshold"))
