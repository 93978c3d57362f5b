"""Template filters that write a model's metrics, comparisons and leaks."""

from typing import Any, TypeGuard

from flask import Flask
from pydantic import ValidationError

from db import LABELS, SHORTCUT_AUC
from db.evaluation.rule import few_groups, uneven_groups
from db.metrics import (
    GROUP_METRICS,
    METRICS,
    counted_groups,
    difference_of,
    digits_beside,
    groups_not_counted,
    name_of,
    written,
    written_interval,
)
from db.models.documents import Measured, Tuning
from db.registry.parity import parity_rows

LEAKS = {
    "identical-slices": "The same slice lies in two parts",
    "near-identical-slices": "Almost the same slice lies in two parts",
    "shared-groups": "A group (a patient, a series) lies in two parts",
    "conflicting-labels": "The same slice is labelled both ways",
    "seen-by-parent": "The run starts from a version that was trained on validation or test slices",
}


def install(app: Flask) -> None:
    """Make the functions of this module available to templates."""
    app.jinja_env.filters.update(metric=metric, metric_name=name_of, leak=leak, written=written, plain=plain)
    app.jinja_env.globals.update(
        METRICS=METRICS, GROUP_METRICS=GROUP_METRICS, SHORTCUT_AUC=SHORTCUT_AUC, difference_of=difference_of
    )
    app.jinja_env.globals.update(
        bars=bars, matrix=matrix, by_source=by_source, by_group=by_group, parity_rows=parity_rows
    )
    app.jinja_env.globals.update(written_interval=written_interval, few_groups=few_groups, groups_text=groups_text)
    app.jinja_env.globals.update(class_groups=class_groups, uneven=uneven, digits_beside=digits_beside)
    app.jinja_env.globals.update(not_counted=not_counted)


def metric(value: Any) -> str:
    """Write a value of a model's metrics: a number, an interval, or other text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"
    if isinstance(value, list | tuple) and len(value) <= 4:
        return " – ".join(metric(item) for item in value)
    return str(value)


def leak(key: str) -> str:
    """Describe a leak of a split in words."""
    return LEAKS.get(key, key.replace("-", " "))


def bars(metrics: Any) -> list[dict[str, Any]]:
    """Return the metrics of a model version and their intervals, with their places as percentages of a bar's width.

    Leave out values that are not numbers from 0 to 1. An imported version may have such values.
    """
    found: list[dict[str, Any]] = []
    for key in METRICS:
        value = metrics.get(key) if isinstance(metrics, dict) else None
        if not _is_figure(value):
            continue
        low, high = _interval(metrics, key)
        width = None if low is None or high is None else max(100 * (high - low), 0.6)
        place = {"at": 100 * value, "start": 100 * (low or 0), "width": width}
        found.append({"key": key, "value": float(value), "low": low, "high": high, **place})
    return found


def _is_figure(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _interval(metrics: dict[str, Any], key: str) -> tuple[float | None, float | None]:
    intervals = metrics.get("intervals")
    both = intervals.get(key) if isinstance(intervals, dict) else None
    if not METRICS[key].has_interval:  # older results have one
        return None, None
    # Older results have intervals without a width if no slice was wrong. They are too narrow.
    if isinstance(both, list) and len(both) == 2 and all(map(_is_figure, both)) and both[0] < both[1]:
        return float(both[0]), float(both[1])
    return None, None


def matrix(metrics: dict[str, Any]) -> list[list[int]] | None:
    """Return the confusion matrix [[tn, fp], [fn, tp]], or None."""
    rows = metrics.get("confusion_matrix")
    if not isinstance(rows, list) or [len(row) if isinstance(row, list) else 0 for row in rows] != [2, 2]:
        return None
    return rows if all(isinstance(number, int) for row in rows for number in row) else None


def class_groups(metrics: dict[str, Any]) -> dict[str, int]:
    """Return how many groups have a slice of each class, or {} if a version does not state this."""
    stated = metrics.get("class_groups")
    if not isinstance(stated, dict):
        return {}
    groups = {name: number for name in LABELS if isinstance(number := stated.get(name), int)}
    return groups if groups.keys() == LABELS.keys() else {}


def not_counted(groups: dict[str, Any] | Tuning) -> str:
    """Return which groups the metrics of groups, or a tuning, do not count, and why. Return "" if all are counted."""
    if isinstance(groups, Tuning):
        return groups_not_counted(groups.left_out, groups.no_verdict)
    return groups_not_counted(*(_whole(groups.get(name)) for name in ("left_out", "no_verdict")))


def _whole(number: object) -> int:
    return number if isinstance(number, int) else 0


def groups_text(groups: Any, named: Any) -> str:
    """Write how many groups count, and how many there were before those that share slices were joined."""
    count, before = (number if isinstance(number, int) else None for number in (groups, named))
    return counted_groups(count, before, metric)


def uneven(metrics: dict[str, Any]) -> list[str]:
    """Return a line for each class in which a few groups have most of the slices, and what to do."""
    try:
        return uneven_groups(Measured.model_validate(metrics))
    except ValidationError:  # an imported version may state anything
        return []


def by_group(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the metrics of the groups' findings, or an empty dictionary."""
    found = metrics.get("by_group")
    return found if isinstance(found, dict) and isinstance(found.get("rule"), dict) else {}


def by_source(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metrics for each source, by the name of the source."""
    found = metrics.get("by_source")
    sources = found.items() if isinstance(found, dict) else ()
    return {str(name): one for name, one in sources if isinstance(one, dict)}


def plain(value: Any) -> str:
    """Write a setting or a fact of any type in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{str(key).replace('_', ' ')} {plain(member)}" for key, member in value.items())
    if isinstance(value, list):
        return ", ".join(plain(member) for member in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return {True: "yes", False: "no", None: "–"}[value] if isinstance(value, bool) or value is None else str(value)
