"""The temperature, the threshold and the distance limit of a model version, as each engine uses them."""

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
    """Return the temperature and the threshold of the engine of this name."""
    own = version.calibration.get(engine, {})
    return own.get("temperature", version.temperature), own.get("threshold", version.threshold)


def limit_of(ood: Mapping[str, float], engine: str) -> float | None:
    """Return the distance above which the engine of this name flags a slice, by a manifest's `ood`, or None."""
    return ood.get(engine, ood.get("threshold"))
