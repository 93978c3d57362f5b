"""Reads from a manifest how close the answers of a package's files are to the answers of the trained network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from db.registry.manifest import PRECISIONS, Parity


@dataclass(frozen=True)
class ParityRow:
    """How answers of an exported file differ from float32 answers on the test slices. Missing numbers are None.

    `to_covid`, `to_non_covid`: how many labels changed. `p99_difference` (the 99th percentile) and `largest_difference`
    are differences of a calibrated probability. `verdict`: "kept", or why the file was left out.
    """

    engine: str
    to_covid: int | None
    to_non_covid: int | None
    p99_difference: float | None
    largest_difference: float | None
    passed: bool
    verdict: str


def parity_rows(parity: Mapping[str, Any]) -> list[ParityRow]:
    """Return a row for each precision that a manifest's `parity` describes."""
    return [_row(name, Parity.of(parity[name])) for name in parity if name in PRECISIONS]


def _row(name: str, stated: Parity) -> ParityRow:
    return ParityRow(
        engine=name,
        to_covid=stated.to_covid,
        to_non_covid=stated.to_non_covid,
        p99_difference=stated.p99_difference,
        largest_difference=stated.largest_difference,
        passed=stated.passed,
        verdict="kept" if stated.passed else stated.reason,
    )
