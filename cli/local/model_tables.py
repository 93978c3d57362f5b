"""Turns model versions and their metrics into tables and JSON."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from cli.errors import NotFoundOrDenied
from db.evaluation.result import PairedMetrics
from db.metrics import METRICS, OF_PROBABILITIES, difference_of, written, written_interval
from db.models import ModelVersion
from db.registry import versions


def find_version(session: Session, label: str) -> ModelVersion:
    """Return the model version with this label (name/number) or id.

    Raises:
        NotFoundOrDenied: there is no such version.
    """
    version = versions.find_version(session, label)
    if version is None:
        raise NotFoundOrDenied(f"there is no model version {label}")
    return version


def version_view(version: ModelVersion, champion: ModelVersion | None) -> dict[str, Any]:
    """Return the facts of a version that a list shows, as JSON."""
    return {
        "id": version.id,
        "version": version.label,
        "champion": champion is not None and champion.id == version.id,
        "created_at": version.created_at.isoformat(),
        "recipe": version.recipe,
        "threshold": version.threshold,
        "temperature": version.temperature,
        "note": version.note,
        "dataset": version.facts.dataset,
        "lineage": version.facts.lineage,
        "metrics": version.metrics,
    }


def flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, object]]:
    """Return nested members as pairs: a name such as `a.b`, and a value.

    A metric gets its interval. A list of names becomes one text. A member of a list has its name as its place, or else
    its number. Metrics of probabilities of groups are left out. Older versions have them, although the score of a group
    is not a probability.
    """
    intervals = value.get("intervals")
    intervals = intervals if isinstance(intervals, dict) else {}
    lines: list[tuple[str, object]] = []
    for name, member in value.items():
        if name == "intervals" or (name in OF_PROBABILITIES and before.endswith("by_group.")):
            continue
        if isinstance(member, dict):
            lines += flat(member, f"{before}{name}.")
        elif isinstance(member, list) and member and all(isinstance(each, dict) for each in member):
            for place, each in enumerate(member, start=1):
                lines += flat(each, f"{before}{name}.{each.get('name', place)}.")
        else:
            lines.append((before + name, _cell(member) + _interval_after(name, intervals.get(name))))
    return lines


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " → ".join(value)
    return "" if value is None else str(value)


def _interval_after(name: str, interval: object) -> str:
    """Return a 95 % interval as text to put after a metric, or an empty text."""
    if not isinstance(interval, list) or len(interval) != 2 or (name in METRICS and not METRICS[name].has_interval):
        return ""
    if interval[0] == interval[1]:  # as in older results, if no slice was wrong; it is too narrow
        return ""
    return f" ({written_interval(*interval)})"


def comparison_rows(pairs: PairedMetrics) -> list[tuple[str, ...]]:
    """Return a paired comparison as rows: metric, first version, second version, difference, interval, meaning."""
    return [
        (metric.name, written(pair.first), written(pair.second), written(pair.difference, "+"),
         written_interval(pair.low, pair.high, "+") if metric.has_interval else "",
         difference_of(key, pair.low, pair.high))
        for key, metric in METRICS.items()
        if (pair := pairs.get(key)) is not None
    ]  # fmt: skip
