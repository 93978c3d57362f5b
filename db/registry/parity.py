"""How near a package's files are to the trained network, read from its manifest; that may be anybody's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ParityRow:
    """One exported file beside float32's answers on the test slices; a number that is not stated is None.

    `to_covid`, `to_non_covid`: how many verdicts changed. `p99_difference` (the 99th percentile) and
    `largest_difference` are of a calibrated probability. `verdict`: "kept", or why the file was left out.
    """

    engine: str
    to_covid: float | None
    to_non_covid: float | None
    p99_difference: float | None
    largest_difference: float | None
    passed: bool
    verdict: str


def parity_rows(parity: Mapping[str, Any]) -> list[ParityRow]:
    """Return a row for each precision that a manifest's `parity` describes; other members are left out."""
    return [_row(name, found) for name, found in parity.items() if isinstance(found, Mapping)]


def _row(name: str, found: Mapping[str, Any]) -> ParityRow:
    passed = bool(found.get("passed"))
    return ParityRow(
        engine=name,
        to_covid=_number(found.get("to_covid")),
        to_non_covid=_number(found.get("to_non_covid")),
        p99_difference=_number(found.get("p99_difference")),
        largest_difference=_number(found.get("largest_difference")),
        passed=passed,
        verdict="kept" if passed else str(found.get("reason") or "left out"),
    )


def _number(value: Any) -> float | None:
    """Return a finite number as it is, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number that no float can hold
        return None
