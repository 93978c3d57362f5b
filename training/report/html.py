"""Writes the report of a finished run: one self-contained HTML file, and its figures as PNG files beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from db.metrics import counted_groups
from db.registry.parity import parity_rows
from training.report import captions
from training.report.content import (
    ReportContent,
    calibration_note,
    count,
    duration,
    few_groups_note,
    largest_group_note,
    metric_rows,
    number,
    settings_tables,
    stop_note,
)
from training.report.figures.scores import (
    confusion_figure,
    distance_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
    score_figure,
)
from training.report.figures.slice_grids import MOST_MISTAKES, Mistake, augmented_grid, mistakes_grid, pair_png
from training.report.figures.style import DARK, LIGHT, Style, readable, to_png
from training.report.figures.training import learning_figure, source_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORT = "report.html"
TEMPLATE = "report.html.j2"
HEADLINE = "accuracy", "auc", "recall", "specificity", "ece"


@dataclass(frozen=True)
class Picture:
    """A figure of the report. If it could not be drawn, `light` is None, and `missing` says why.

    `dark`: the same figure for dark paper, or None if `light` is for both.
    """

    file: str
    title: str
    caption: str
    light: bytes | None = None
    dark: bytes | None = None
    missing: str = ""

    @property
    def light_uri(self) -> str:
        """Return the picture as a `data:` address."""
        return png_uri(self.light or b"")

    @property
    def dark_uri(self) -> str:
        """Return the picture for dark paper as a `data:` address, or ""."""
        return png_uri(self.dark) if self.dark else ""


def write_report(folder: Path, content: ReportContent) -> list[str]:
    """Write `report.html` and the figures into `folder`. Return the names of the files, the report first.

    The page contains its pictures and styles, runs no script and loads nothing. If a figure cannot be drawn, such as
    the ROC curve of one class, a sentence in its place says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = _pictures(content)
    names = [REPORT]
    for picture in (picture for group in groups.values() for picture in group):
        if picture.light is not None:
            (folder / picture.file).write_bytes(picture.light)
            names.append(picture.file)
    if content.mistakes:
        (folder / "mistakes.png").write_bytes(mistakes_grid(content.mistakes))
        names.append("mistakes.png")
    (folder / REPORT).write_text(_html(content, groups), encoding="utf-8")
    return names


def png_uri(png: bytes) -> str:
    """Return a PNG as a `data:` address."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _html(content: ReportContent, groups: dict[str, list[Picture]]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = metric_rows(content.metrics)
    return pages.get_template(TEMPLATE).render(
        content=content,
        facts=content.facts,
        headline=[rows[name] for name in HEADLINE],
        rows=list(rows.values()),
        groups=groups,
        mistakes=[_shown(mistake) for mistake in content.mistakes[:MOST_MISTAKES]],
        mistakes_caption=captions.mistakes(content),
        settings=[
            *settings_tables("Configuration", content.facts.config),
            *settings_tables("Environment", content.facts.environment),
        ],
        stopped=stop_note(content),
        groups_counted=counted_groups(content.metrics.groups, content.metrics.named_groups),
        few_groups=few_groups_note(content),
        largest_group=largest_group_note(content.facts),
        calibration=calibration_note(content),
        parity=parity_rows(content.parity),
        duration=duration,
        number=number,
        count=count,
    )


def _shown(mistake: Mistake) -> dict[str, str]:
    return {
        "name": readable(mistake.name),
        "verdict": mistake.verdict,
        "probability": number(mistake.probability),
        "uri": png_uri(pair_png(mistake)),
    }


def _pictures(content: ReportContent) -> dict[str, list[Picture]]:
    """Return all figures, by section of the page."""
    return {"test": _test_pictures(content), "training": _training_pictures(content)}


def _test_pictures(content: ReportContent) -> list[Picture]:
    test, metrics, threshold = content.test, content.metrics, content.threshold
    scored = partial(_drawn, content)
    pictures = [
        scored("confusion-matrix", captions.confusion, partial(confusion_figure, metrics.confusion_matrix)),
        scored("roc", captions.roc, partial(roc_figure, test.probability, test.labels, threshold, metrics)),
        scored(
            "precision-recall",
            captions.precision_recall,
            partial(precision_recall_figure, test.probability, test.labels, threshold, metrics),
        ),
        scored(
            "reliability", captions.reliability, partial(reliability_figure, test.probability, test.labels, metrics)
        ),
        scored("scores", captions.scores, partial(score_figure, test.probability, test.labels, threshold)),
    ]
    if test.distance is not None:
        draw = partial(distance_figure, test.distance, content.ood_threshold)
        pictures.append(scored("distance", captions.distance, draw))
    if content.by_source:
        pictures.append(scored("by-source", captions.by_source, partial(source_figure, content.by_source)))
    return pictures


def _training_pictures(content: ReportContent) -> list[Picture]:
    draw = partial(learning_figure, content.history, content.champion)
    pictures = [_drawn(content, "learning-curves", captions.learning, draw)]
    if content.augmented is not None and len(content.augmented):
        grid = augmented_grid(content.augmented)
        pictures.append(Picture("augmented.png", TITLES["augmented"], captions.augmented(content), grid))
    return pictures


TITLES = {
    "confusion-matrix": "Confusion matrix",
    "roc": "ROC curve",
    "precision-recall": "Precision and recall",
    "reliability": "Reliability",
    "scores": "Scores by class",
    "distance": "Distance from the training slices",
    "by-source": "By source",
    "learning-curves": "Learning curves",
    "augmented": "Augmented slices",
}


def _drawn(
    content: ReportContent, name: str, caption: Callable[[ReportContent], str], draw: Callable[[Style], Figure]
) -> Picture:
    """Draw a figure on light and on dark paper, or say why it cannot be drawn."""
    file, title = f"{name}.png", TITLES[name]
    try:
        light, dark = (to_png(draw(style)) for style in (LIGHT, DARK))
    except ValueError as error:
        return Picture(file, title, "", missing=f"Not drawn: {error}.")
    return Picture(file, title, caption(content), light, dark)
