"""Model versions and their figures as tables and JSON."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from cli.errors import NotFoundOrDenied
from db.evaluation.result import PairedMetrics
from db.models import ModelVersion
from db.registry import versions

FIGURES = {
    "accuracy": "accuracy", "precision": "precision", "recall": "sensitivity", "specificity": "specificity",
    "f1": "F1", "auc": "AUC", "pr_auc": "PR AUC", "brier": "Brier score", "ece": "ECE",
}  # fmt: skip
SMALLER_IS_BETTER = {"brier", "ece"}


def find_version(session: Session, label: str) -> ModelVersion:
    """Return the model version of this label (name/number) or id.

    Raises:
        NotFoundOrDenied: there is none.
    """
    version = versions.find_version(session, label)
    if version is None:
        raise NotFoundOrDenied(f"there is no model version {label}")
    return version


def version_view(version: ModelVersion, champion: ModelVersion | None) -> dict[str, Any]:
    """Return what a list shows of a version, as JSON."""
    return {
        "id": version.id,
        "version": version.label,
        "champion": champion is not None and champion.id == version.id,
        "created_at": version.created_at.isoformat(),
        "recipe": version.recipe,
        "threshold": version.threshold,
        "temperature": version.temperature,
        "note": version.note,
        "dataset": version.facts.get("dataset"),
        "lineage": version.facts.get("lineage", []),
        "metrics": version.metrics,
    }


def flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, object]]:
    """Return nested members as lines named `a.b`; a figure with its interval, a list of names as a chain."""
    intervals = value.get("intervals")
    intervals = intervals if isinstance(intervals, dict) else {}
    lines: list[tuple[str, object]] = []
    for name, member in value.items():
        if name == "intervals":
            continue
        if isinstance(member, dict):
            lines += flat(member, f"{before}{name}.")
        elif isinstance(member, list) and member and all(isinstance(each, dict) for each in member):
            for place, each in enumerate(member, start=1):
                lines += flat(each, f"{before}{name}.{place}.")
        else:
            lines.append((before + name, _cell(member) + with_interval(intervals.get(name))))
    return lines


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " → ".join(value)
    return "" if value is None else str(value)


def with_interval(interval: object) -> str:
    """Return a 95 % interval as it follows its figure; nothing where there is none."""
    if not isinstance(interval, list) or len(interval) != 2:
        return ""
    return f" ({interval[0]:.3f} to {interval[1]:.3f})"


def comparison_rows(figures: PairedMetrics) -> list[tuple[str, ...]]:
    """Return a paired comparison as rows: figure, candidate, other, difference, its interval, what that means."""
    rows: list[tuple[str, ...]] = []
    for name, words in FIGURES.items():
        if (one := figures.get(name)) is None:
            continue
        low, high = one.low, one.high
        interval = f"{low:+.3f} to {high:+.3f}" if low is not None and high is not None else ""
        rows.append((words, _figure(one.first), _figure(one.second),
                     _figure(one.difference, "+"), interval, _meaning(name, low, high)))  # fmt: skip
    return rows


def _figure(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _meaning(name: str, low: float | None, high: float | None) -> str:
    if low is None or high is None or low <= 0 <= high:
        return ""
    better = (low > 0) != (name in SMALLER_IS_BETTER)
    return "better beyond chance" if better else "worse beyond chance"
