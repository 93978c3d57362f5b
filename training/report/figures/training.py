"""Draws figures of a run: learning curves over all stages, and metrics by source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from db.evaluation.result import Interval, Metrics
from db.metrics import METRICS
from db.training.progress import EpochRecord
from training.report.figures.style import LIGHT, SMALL, TEXT, Style, dress, legend, new_sheet, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[EpochRecord]
PANELS = ("loss", "loss"), ("accuracy", "accuracy")
SOURCE_METRICS = ("accuracy", "recall", "specificity")
MOST_SOURCES = 24


def learning_figure(history: History, champion: History | None = None, style: Style = LIGHT) -> Figure:
    """Draw loss and accuracy on training and validation slices, epoch by epoch through all stages.

    Values that an epoch did not measure are left out. The validation curve of the champion is dashed, over the
    champion's own epochs.

    Raises ValueError for an empty history.
    """
    if not history:
        raise ValueError("no epoch was recorded")
    epochs, before = _in_order(history), _in_order(champion or [])
    figure = new_sheet(8.2, 3.2, style)
    for axes, (name, word) in zip(figure.subplots(1, 2), PANELS, strict=True):
        _curve(axes, epochs, name, "training", color=style.muted, linewidth=1.2)
        _curve(axes, epochs, f"val_{name}", "validation", color=style.accent, linewidth=2)
        _curve(axes, before, f"val_{name}", "champion, validation", color=style.champion, linewidth=1.5, linestyle="--")
        dress(axes, style, x="epoch", title=word, grid="y")
        axes.set_xlim(0.5, max(len(epochs), len(before)) + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _stage_borders(axes, epochs, style)
        if axes.get_legend_handles_labels()[0]:
            legend(axes, style, "best")
    return figure


def source_figure(by_source: Mapping[str, Metrics], style: Style = LIGHT) -> Figure:
    """Draw accuracy, sensitivity and specificity of each source as bars, with their intervals as whiskers.

    A metric that is None has no bar. Only the 24 largest sources are drawn. Raises ValueError if there is no source.
    """
    if not by_source:
        raise ValueError("no source is known")
    sources = sorted(by_source.items(), key=lambda source: -(source[1].n or 0))[:MOST_SOURCES]
    places = np.arange(len(sources))
    figure = new_sheet(8.2, 1.1 + 0.36 * len(sources), style)
    panels = figure.subplots(1, len(SOURCE_METRICS), sharey=True)
    for axes, name in zip(panels, SOURCE_METRICS, strict=True):
        for place, (_, metrics) in zip(places, sources, strict=True):
            _bar(axes, int(place), getattr(metrics, name), metrics.intervals.get(name), style)
        dress(axes, style, title=METRICS[name].name, grid="x")
        axes.set_xlim(0, 1.16)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.spines["bottom"].set_bounds(0, 1)
    labels = [f"{short_name(name)} ({metrics.n or 0:,})" for name, metrics in sources]
    panels[0].set_yticks(places, labels, fontsize=SMALL, parse_math=False)
    panels[0].set_ylim(len(sources) - 0.4, -0.6)
    return figure


def _in_order(history: History) -> History:
    return sorted(history, key=lambda record: (record.stage, record.epoch))


def _curve(axes: Axes, epochs: History, name: str, label: str, **looks: Any) -> None:
    """Draw one line over the epochs that measured `name` as a number. Draw none if no epoch did."""
    values = [(at, record.metrics.get(name)) for at, record in enumerate(epochs, start=1)]
    points = [(at, value) for at, value in values if value is not None and math.isfinite(value)]
    if points:
        marker = "o" if len(points) < 12 else ""
        axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3, **looks)


def _stage_borders(axes: Axes, epochs: History, style: Style) -> None:
    """Draw a line between two stages. Write the number of each stage at its start, above the curves."""
    stages = [record.stage for record in epochs]
    starts = [at for at in range(len(stages)) if at == 0 or stages[at] != stages[at - 1]]
    if len(starts) < 2:
        return
    for number, at in enumerate(starts, start=1):
        if at:
            axes.axvline(at + 0.5, color=style.muted, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.annotate(
            f"stage {number}",
            (at + 0.5, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=6.5,
            color=style.muted,
        )


def _bar(axes: Axes, place: int, value: float | None, interval: Interval, style: Style) -> None:
    if value is None:
        axes.text(0.02, place, "not defined", va="center", fontsize=SMALL, color=style.muted)
        return
    axes.barh(place, value, height=0.62, color=style.accent, alpha=0.55)
    edge = value
    if interval:
        low, high = interval
        axes.plot([low, high], [place, place], color=style.ink, linewidth=1.4, solid_capstyle="butt")
        axes.plot([low, high], [place, place], color=style.ink, linestyle="none", marker="|", markersize=6)
        edge = max(value, high)
    axes.text(edge + 0.02, place, f"{value:.2f}", va="center", fontsize=TEXT - 2, color=style.ink)
