"""The table of metrics, and that the page and the command line say the same of a difference."""

from pathlib import Path

import pytest
from jinja2 import Environment, FileSystemLoader

from cli.local.model_tables import comparison_rows, flat
from db import CLASSES
from db.evaluation.result import PairedMetric
from db.metrics import METRICS, Difference, counted_groups, difference_of, name_of, written, written_interval
from web.views.metric_filters import bars

TEMPLATES = Path(__file__).parents[2] / "web" / "templates"
INTERVALS = [
    ("recall", 0.01, 0.2, Difference.BETTER),
    ("recall", -0.2, -0.01, Difference.WORSE),
    ("recall", -0.2, 0.0, Difference.NONE),
    ("recall", None, None, Difference.UNKNOWN),
    ("brier", -0.2, -0.01, Difference.BETTER),
    ("ece", None, None, Difference.NOT_JUDGED),
    ("brier", 0.01, 0.2, Difference.WORSE),
]


@pytest.mark.parametrize(("key", "low", "high", "difference"), INTERVALS)
def test_interval_of_a_difference_says_who_is_better(
    key: str, low: float | None, high: float | None, difference: Difference
) -> None:
    assert difference_of(key, low, high) is difference


@pytest.mark.parametrize(("key", "low", "high", "difference"), INTERVALS)
def test_page_and_command_line_say_the_same_of_a_difference(
    key: str, low: float | None, high: float | None, difference: Difference
) -> None:
    one = PairedMetric(first=0.9, second=0.8, difference=0.1, low=low, high=high)
    [row] = [row for row in comparison_rows({key: one}) if row[0] == METRICS[key].name]
    page = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    page.filters.update(metric_name=name_of, metric=str, written=written)
    page.globals.update(METRICS=METRICS, difference_of=difference_of, written_interval=written_interval)
    html = page.get_template("models/_compared.html").module.compared({key: one}, "a", "b", "t")  # type: ignore[attr-defined]
    assert row[-1] == difference
    assert f">{difference}</td>" in html
    assert f">{written_interval(low, high, '+')}</td>" in html
    assert row[-2] == written_interval(low, high, "+")


def test_every_metric_has_its_own_name_and_known_classes() -> None:
    assert len({metric.name for metric in METRICS.values()}) == len(METRICS)
    assert {label for metric in METRICS.values() for label in metric.classes} == set(CLASSES)


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [(0.9684, "", "0.968"), (None, "", "–"), (float("nan"), "", "–"), (-0.012, "+", "−0.012"), (0.0, "+", "+0.000")],
)
def test_metrics_are_written_with_three_digits(value: float | None, sign: str, text: str) -> None:
    assert written(value, sign) == text


def test_interval_of_the_calibration_error_in_an_older_result_is_not_shown() -> None:
    """It often lay above the error itself, and called one of two calibrated models better."""
    assert difference_of("ece", -0.2, -0.1) is Difference.NOT_JUDGED
    older = PairedMetric(first=0.1, second=0.2, difference=-0.1, low=-0.2, high=-0.05)
    assert comparison_rows({"ece": older})[0][-2:] == ("", Difference.NOT_JUDGED)
    stored = {"ece": 0.02, "auc": 0.9, "intervals": {"ece": [0.03, 0.07], "auc": [0.8, 1.0]}}
    assert [(one["key"], one["low"]) for one in bars(stored)] == [("auc", 0.8), ("ece", None)]
    assert dict(flat(stored)) == {"ece": "0.02", "auc": "0.9 (0.800 to 1.000)"}


def test_interval_without_width_is_not_shown() -> None:
    stored = {"auc": 1.0, "intervals": {"auc": [1.0, 1.0]}}
    assert [(one["value"], one["low"]) for one in bars(stored)] == [(1.0, None)]
    assert dict(flat(stored)) == {"auc": "1"}


@pytest.mark.parametrize(
    ("groups", "named", "text"),
    [
        (24, 72, "72 groups; 24 after joining those that share slices"),
        (24, 24, "24 groups"),
        (1, 1, "1 group"),
        (1200, None, "1,200 groups"),
        (None, 40, "40 groups"),
    ],
)
def test_groups_before_and_after_joining_are_written_if_they_differ(
    groups: int | None, named: int | None, text: str
) -> None:
    assert counted_groups(groups, named) == text
