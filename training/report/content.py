"""All that a training report and a model card tell, and the words for its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.metrics import METRICS, written
from training.report.figures.slice_grids import Mistake

MINUTE, HOUR = 60, 3600  # seconds


@dataclass(frozen=True)
class PartSize:
    """How large one part of the split is: training, validation or test."""

    part: str
    slices: int
    groups: int
    covid: int
    non_covid: int


@dataclass(frozen=True)
class RunFacts:
    """What was asked of the run, and where it ran. `dataset`: `name/number`; `split`: the rule by which it is in parts;
    `lineage`: oldest ancestor first."""

    preset: str
    seed: int
    dataset: str
    dataset_hash: str
    split: str = "by group"
    parts: Sequence[PartSize] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    lineage: Sequence[str] = ()
    seconds: float | None = None
    allowed_leaks: Sequence[str] = ()


@dataclass(frozen=True)
class TestScores:
    """The model's answers on the slices it was measured on.

    `probability`: float[n], calibrated; `labels`: 0 or 1 [n]; `groups`: n names; `distance`: float[n], from what the
    model knows, or None where the network gives none.
    """

    __test__ = False  # the name is the field's; pytest need not look here

    probability: NDArray[np.floating[Any]]
    labels: NDArray[np.integer[Any]]
    groups: Sequence[str]
    distance: NDArray[np.floating[Any]] | None = None


@dataclass(frozen=True)
class ReportContent:
    """`metrics`: the dict of `training.evaluation.metrics.with_intervals`; `by_source`: the same for each source's
    name.

    `history`: `{"stage", "epoch", "metrics"}` an epoch, as stored; `champion`: the champion's, or None. `augmented`:
    uint8[n, h, w] or None. `mistakes`: the most confident first. `parity`: as in the package. `ood_threshold`: the
    distance beyond which a slice is flagged.
    """

    title: str
    note: str
    facts: RunFacts
    metrics: Mapping[str, Any]
    threshold: float
    threshold_rule: str
    temperature: float
    test: TestScores
    history: Sequence[Mapping[str, Any]] = ()
    champion: Sequence[Mapping[str, Any]] | None = None
    augmented: NDArray[np.uint8] | None = None
    mistakes: Sequence[Mistake] = ()
    by_source: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    ood_threshold: float | None = None
    measured_on: str = "the test part of the split: groups that training never saw"


@dataclass(frozen=True)
class MetricRow:
    """A metric for people. `low`, `high`: its 95 % interval as text; empty where there is none."""

    word: str
    value: str
    low: str
    high: str
    meaning: str

    @property
    def interval(self) -> str:
        """`0.984–0.996`."""
        return f"{self.low}–{self.high}" if self.low else ""


def metric_rows(metrics: Mapping[str, Any]) -> dict[str, MetricRow]:
    """A row for each metric by its name, all nine, in the order they are read."""
    intervals = metrics.get("intervals") or {}
    rows = {}
    for name, metric in METRICS.items():
        low, high = intervals.get(name) or (None, None)
        known = is_number(low) and is_number(high)
        ends = (number(low), number(high)) if known else ("", "")
        rows[name] = MetricRow(metric.title, number(metrics.get(name)), *ends, metric.meaning)
    return rows


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """`0.968`; a dash for what is undefined."""
    return written(value if is_number(value) else None, digits=digits)


def count(value: float | None) -> str:
    """`1,234`; a dash for what is not stated."""
    return "–" if value is None else f"{value:,.0f}"


def percent(part: float, whole: float) -> str:
    """`3.8 %`, with a narrow no-break space; a dash of nothing."""
    return f"{100 * part / whole:.1f}\u202f%" if whole else "–"


def duration(seconds: float | None) -> str:
    """`1 h 07 min`, `4 min 09 s`, `38 s`."""
    if not is_number(seconds) or seconds is None:
        return "–"
    whole = round(seconds)
    if whole < MINUTE:
        return f"{whole} s"
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE:02d} s"
    return f"{whole // HOUR} h {whole % HOUR // MINUTE:02d} min"


@dataclass(frozen=True)
class SettingsTable:
    """Settings of one kind: a row for each name, with its value in each of the columns."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def settings_tables(title: str, settings: Mapping[str, Any]) -> list[SettingsTable]:
    """`settings` as tables: the single values first, then each nested group, then each list with a column an item."""
    single = {name: value for name, value in settings.items() if not (_is_group(value) or _is_list(value))}
    tables = [_table_of(title, [single])] if single else []
    for name, value in settings.items():
        if _is_group(value):
            tables.append(_table_of(f"{title}: {name}", [value]))
        elif _is_list(value):
            tables.append(_table_of(f"{title}: {name}", value))
    return tables


def _is_group(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(each, Mapping) for each in value)


def _table_of(title: str, items: Sequence[Mapping[str, Any]]) -> SettingsTable:
    names = list(dict.fromkeys(name for item in items for name in item))
    columns = [str(at) for at in range(1, len(items) + 1)] if len(items) > 1 else []
    return SettingsTable(title, columns, [(name, [_setting(item.get(name)) for item in items]) for name in names])


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)
