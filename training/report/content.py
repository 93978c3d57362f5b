"""The content of a training report and a model card, and functions that write their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db import TEST, TRAIN
from db.evaluation.result import GroupMetrics, Metrics
from db.evaluation.rule import LEAST_GROUPS, uneven_groups
from db.metrics import METRICS, written
from db.training.progress import EpochRecord
from training.evaluation.metrics import chance_calibration_error
from training.report.figures.slice_grids import Mistake

MUCH_LARGER = 2  # the largest group in training is at least so many times as large as the largest in test
MINUTE, HOUR = 60, 3600  # seconds


@dataclass(frozen=True)
class PartSize:
    """The size of one part of the split: training, validation or test. `largest`: the slices of its largest group."""

    part: str
    slices: int
    groups: int
    covid: int
    non_covid: int
    largest: int = 0


@dataclass(frozen=True)
class RunFacts:
    """The settings of a run, and the machine on which it ran.

    `dataset`: `name/number`. `split`: the rule of the split. `lineage`: ancestors, oldest first. `stopped_early`:
    somebody stopped the training before its last epoch.
    """

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
    stopped_early: bool = False
    allowed_leaks: Sequence[str] = ()


@dataclass(frozen=True)
class TestScores:
    """The model's answers for the slices on which it was measured.

    `probability`: float[n], calibrated. `labels`: 0 or 1 [n]. `groups`: n names. `distance`: float[n], the distance
    from the training slices, or None if the network has no such output.
    """

    __test__ = False  # this is not a test class of pytest

    probability: NDArray[np.floating[Any]]
    labels: NDArray[np.integer[Any]]
    groups: Sequence[str]
    distance: NDArray[np.floating[Any]] | None = None


@dataclass(frozen=True)
class ReportContent:
    """The content of a report.

    `by_group`: the metrics of groups. `by_source`: the metrics on the slices of each source, by name. `champion`: the
    champion's epochs, or None. `augmented`: uint8[n, h, w] or None. `mistakes`: the most confident first. `parity`: as
    in the package. `ood_threshold`: the distance above which a slice is out of distribution.
    """

    title: str
    note: str
    facts: RunFacts
    metrics: Metrics
    threshold: float
    threshold_rule: str
    temperature: float
    test: TestScores
    history: Sequence[EpochRecord] = ()
    champion: Sequence[EpochRecord] | None = None
    augmented: NDArray[np.uint8] | None = None
    mistakes: Sequence[Mistake] = ()
    by_group: GroupMetrics | None = None
    by_source: Mapping[str, Metrics] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    ood_threshold: float | None = None
    measured_on: str = "the test part of the split: groups that training never saw"


def stop_note(content: ReportContent) -> str:
    """Return a sentence that says after how many epochs training was stopped, or "" if nobody stopped it."""
    if not content.facts.stopped_early:
        return ""
    planned = sum(int(stage.get("epochs", 0)) for stage in content.facts.config.get("stages", ()))
    most = f" of at most {planned:,}" if planned else ""
    return f"Training was stopped early, after {len(content.history):,}{most} epochs."


def few_groups_note(content: ReportContent) -> str:
    """Return sentences that say which classes have few groups, or groups of very unequal size, or "" if none has."""
    counts = content.metrics.class_groups
    uneven = [f"{line[0].upper()}{line[1:]}." for line in uneven_groups(content.metrics)]
    few = [f"{count:,} {'group' if count == 1 else 'groups'} of {name}" for name, count in counts.items()
           if count < LEAST_GROUPS]  # fmt: skip
    if few:
        uneven.insert(
            0,
            f"The metrics come from only {' and '.join(few)}. With fewer than {LEAST_GROUPS} groups of a class,"
            " intervals are only approximate, and small differences mean nothing.",
        )
    return " ".join(uneven)


def largest_group_note(facts: RunFacts) -> str:
    """Return a sentence that says that the largest group is in training, and much larger than the groups in test.

    This happens because splits assign large groups first, mostly to training. Return "" if a group in test is more than
    half as large.
    """
    largest = {part.part: part.largest for part in facts.parts}
    trained, tested = largest.get(TRAIN, 0), largest.get(TEST, 0)
    if not tested or trained < MUCH_LARGER * tested or trained < max(largest.values()):
        return ""
    return (
        f"The largest group of the training part has {trained:,} slices, and that of the test part {tested:,}. So the"
        " metrics say little about large groups."
    )


def calibrated_for(facts: RunFacts) -> str:
    """Return for which data the probability is calibrated. In a balanced run, both classes count the same."""
    if facts.config.get("balanced"):
        return "data in which both classes are equally frequent"
    return "the share of COVID in the validation slices"


def calibration_note(content: ReportContent) -> str:
    """Return how large a calibration error chance alone makes. For a balanced run, also say what else makes one."""
    error = chance_calibration_error(content.test.probability)
    chance = (
        "It has no interval, because resampled slices would make it larger. On this number of slices, a perfectly"
        f" calibrated model has an error of about {number(error)} by chance."
    )
    if not content.facts.config.get("balanced"):
        return chance
    return (
        f"{chance} This run was balanced: its probability is calibrated for {calibrated_for(content.facts)}. If the"
        " classes are not equally frequent in the test part, the error is larger."
    )


@dataclass(frozen=True)
class MetricRow:
    """A metric for people. `low`, `high`: its 95 % interval as text, or "" if there is none."""

    word: str
    value: str
    low: str
    high: str
    meaning: str

    @property
    def interval(self) -> str:
        """Return the interval, such as `0.984–0.996`."""
        return f"{self.low}–{self.high}" if self.low else ""


def metric_rows(metrics: Metrics) -> dict[str, MetricRow]:
    """Return a row for each of the nine metrics, by the name of the metric and in reading order."""
    rows = {}
    for name, metric in METRICS.items():
        low, high = metrics.intervals.get(name) or (None, None)
        has_interval = is_number(low) and is_number(high)
        ends = (number(low), number(high)) if has_interval else ("", "")
        rows[name] = MetricRow(metric.title, number(getattr(metrics, name)), *ends, metric.meaning)
    return rows


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """Write a number such as `0.968`, or a dash if it is undefined."""
    return written(value if is_number(value) else None, digits=digits)


def count(value: float | None) -> str:
    """Write a count such as `1,234`, or a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def percent(part: float, whole: float) -> str:
    """Write a share such as `3.8 %`, with a narrow no-break space. Write a dash if `whole` is 0."""
    return f"{100 * part / whole:.1f}\u202f%" if whole else "–"


def duration(seconds: float | None) -> str:
    """Write a duration such as `1 h 07 min`, `4 min 09 s` or `38 s`."""
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
    """A table of settings of one kind. Each setting has a row, with a value in each column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def settings_tables(title: str, settings: Mapping[str, Any]) -> list[SettingsTable]:
    """Return settings as tables: single values first, then each nested group, then each list with a column per item."""
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
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(item, Mapping) for item in value)


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
