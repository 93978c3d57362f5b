"""Draws figures of a trained model's scores. The functions take data, and return matplotlib figures.

Labels are 1 for COVID and 0 for non-COVID. A slice is positive from the threshold on. If a figure cannot be drawn
because a class is missing, ValueError is raised, and `training.report.html` writes the reason in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from db import CLASSES
from db.evaluation.result import Metrics
from training.evaluation.metrics import BINS as RELIABILITY_BINS
from training.report.figures.style import LIGHT, SMALL, TEXT, Style, dress, legend, new_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Probabilities = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
SCORE_BINS, DISTANCE_BINS = 40, 40


def confusion_figure(matrix: Sequence[Sequence[int]], style: Style = LIGHT) -> Figure:
    """Draw a confusion matrix [[tn, fp], [fn, tp]]. Each count is shaded by its share of the true class."""
    import seaborn
    from matplotlib.colors import LinearSegmentedColormap

    counts, classes = np.asarray(matrix, np.int64), [CLASSES[0], CLASSES[1]]
    totals = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(totals, 1)
    words = [f"{count:,}\n{100 * part:.1f}\u202f%" for count, part in zip(counts.flat, share.flat, strict=True)]
    figure = new_sheet(3.6, 3.4, style)
    axes = figure.subplots()
    seaborn.heatmap(
        share,
        annot=np.reshape(words, share.shape),
        fmt="",
        vmin=0,
        vmax=1,
        cmap=LinearSegmentedColormap.from_list("share", [style.sunken, style.accent]),
        annot_kws={"fontsize": 12, "linespacing": 1.5},
        cbar=False,
        square=True,
        linewidths=3,
        linecolor=style.paper,
        xticklabels=classes,
        yticklabels=classes,
        ax=axes,
    )
    for text, part in zip(axes.texts, share.flat, strict=True):
        text.set_color(style.on_accent if part > 0.5 else style.ink)
    dress(axes, style, x="predicted", y="true", grid="none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0, labelsize=TEXT)
    axes.tick_params(axis="y", rotation=90)
    return figure


def roc_figure(
    probability: Probabilities, labels: Labels, threshold: float, metrics: Metrics, style: Style = LIGHT
) -> Figure:
    """Draw the ROC curve with the operating point. The legend gives the AUC of `metrics` with its interval.

    Raises ValueError if a class is missing.
    """
    from sklearn.metrics import roc_curve

    _both_classes(labels)
    false, true, _ = roc_curve(labels, probability)
    called = probability >= threshold
    figure = new_sheet(3.6, 3.4, style)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=style.muted, linewidth=1, linestyle=":", label="chance")
    axes.plot(false, true, color=style.accent, linewidth=2, label=_with_interval("AUC", "auc", metrics))
    axes.fill_between(false, true, color=style.accent, alpha=0.10, linewidth=0)
    point = float(called[labels == 0].mean()), float(called[labels == 1].mean())
    _operating_point(axes, *point, threshold, style)
    dress(axes, style, x="1 − specificity", y="sensitivity")
    _unit_square(axes)
    legend(axes, style, "lower right")
    return figure


def precision_recall_figure(
    probability: Probabilities, labels: Labels, threshold: float, metrics: Metrics, style: Style = LIGHT
) -> Figure:
    """Draw the precision-recall curve with the operating point, and the line of guessing.

    Raises ValueError if a class is missing.
    """
    from sklearn.metrics import precision_recall_curve

    _both_classes(labels)
    precision, recall, _ = precision_recall_curve(labels, probability)
    called = probability >= threshold
    share = float(labels.mean())
    figure = new_sheet(3.6, 3.4, style)
    axes = figure.subplots()
    axes.axhline(share, color=style.muted, linewidth=1, linestyle=":", label=f"chance ({share:.2f})")
    label = _with_interval("PR AUC", "pr_auc", metrics)
    axes.step(recall, precision, where="post", color=style.accent, linewidth=2, label=label)
    if called.any():
        point = float(called[labels == 1].mean()), float(labels[called].mean())
        _operating_point(axes, *point, threshold, style)
    dress(axes, style, x="recall (sensitivity)", y="precision")
    _unit_square(axes)
    legend(axes, style, "lower left")
    return figure


def reliability_figure(probability: Probabilities, labels: Labels, metrics: Metrics, style: Style = LIGHT) -> Figure:
    """Draw the share of COVID over the mean probability in the 15 bins of the ECE, and the count of each bin."""
    edges = np.linspace(0, 1, RELIABILITY_BINS + 1)
    of_bin = np.minimum((probability * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    counts = np.bincount(of_bin, minlength=RELIABILITY_BINS)
    filled = counts > 0
    mean = np.bincount(of_bin, probability, RELIABILITY_BINS)[filled] / counts[filled]
    observed = np.bincount(of_bin, labels, RELIABILITY_BINS)[filled] / counts[filled]
    figure = new_sheet(3.6, 4.0, style)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=style.muted, linewidth=1, linestyle=":", label="perfect")
    upper.vlines(mean, mean, observed, color=style.accent, alpha=0.35, linewidth=3)
    label = "ECE" if metrics.ece is None else f"ECE {metrics.ece:.3f}"
    upper.plot(mean, observed, color=style.accent, linewidth=1, marker=".", label=label)
    upper.scatter(mean, observed, 12 + 90 * np.sqrt(counts[filled] / counts.max()), color=style.accent, zorder=3)
    dress(upper, style, y="share that is COVID")
    _unit_square(upper)
    legend(upper, style, "upper left")
    bars = lower.bar(edges[:-1], counts, 1 / RELIABILITY_BINS * 0.9, align="edge", color=style.accent, alpha=0.75)
    words = [f"{n:,}" if n else "" for n in counts]
    lower.bar_label(bars, words, fontsize=6.5, color=style.muted, padding=2)
    lower.margins(y=0.3)
    dress(lower, style, x="predicted probability of COVID", y="slices", grid="none")
    return figure


def score_figure(probability: Probabilities, labels: Labels, threshold: float, style: Style = LIGHT) -> Figure:
    """Draw a histogram of the probability for each class. On the logarithmic scale, single slices are visible."""
    figure = new_sheet(3.6, 3.4, style)
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    bins = np.linspace(0, 1, SCORE_BINS + 1)
    for axes, label, colour in zip(panels, (1, 0), (style.positive, style.negative), strict=True):
        scores = probability[labels == label]
        axes.hist(scores, bins=bins, color=colour, alpha=0.85)
        axes.axvline(threshold, color=style.ink, linewidth=1.2, linestyle="--", label=f"threshold {threshold:.2f}")
        axes.set_yscale("log")
        dress(axes, style, y="slices", title=f"{CLASSES[label]} ({len(scores):,} slices)", grid="y")
        axes.set_ylim(bottom=0.7)
        axes.set_xlim(0, 1)
    _whole_counts(panels[1])
    panels[1].set_xlabel("predicted probability of COVID", color=style.ink, fontsize=TEXT)
    legend(panels[0], style, "upper center")
    return figure


def distance_figure(distance: NDArray[np.floating[Any]], threshold: float | None, style: Style = LIGHT) -> Figure:
    """Draw a histogram of the distance from the training slices. Above the threshold, slices are out of distribution.

    Raises ValueError if no distance is finite.
    """
    finite = distance[np.isfinite(distance)]
    if len(finite) == 0:
        raise ValueError("no distance was measured")
    threshold = threshold if threshold is not None and np.isfinite(threshold) else None
    figure = new_sheet(3.6, 3.4, style)
    axes = figure.subplots()
    highest = max(float(finite.max()), threshold or 0) or 1.0
    bins = np.linspace(min(float(finite.min()), 0), highest * 1.02, DISTANCE_BINS + 1)
    beyond = finite > threshold if threshold is not None else np.zeros(len(finite), bool)
    axes.hist(
        [finite[~beyond], finite[beyond]],
        bins=bins.tolist(),
        stacked=True,
        color=[style.negative, style.positive],
        label=[f"familiar ({(~beyond).sum():,})", f"out of distribution ({beyond.sum():,})"],
    )
    if threshold is not None:
        axes.axvline(threshold, color=style.ink, linewidth=1.2, linestyle="--", label=f"threshold {threshold:.3g}")
    dress(axes, style, x="distance from the training slices", y="slices", grid="y")
    legend(axes, style, "best")
    return figure


def _both_classes(labels: Labels) -> None:
    if len(np.unique(labels)) < 2:
        raise ValueError("only one class is present")


def _with_interval(word: str, name: str, metrics: Metrics) -> str:
    """Write a metric such as `AUC 0.991 (95 %: 0.984–0.996)`."""
    value, interval = getattr(metrics, name), metrics.intervals.get(name)
    if value is None:
        return word
    if interval is None:
        return f"{word} {value:.3f}"
    return f"{word} {value:.3f} (95 %: {interval[0]:.3f}–{interval[1]:.3f})"


def _operating_point(axes: Axes, x: float, y: float, threshold: float, style: Style) -> None:
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker="o",
        markersize=8,
        color=style.positive,
        markeredgecolor=style.paper,
        markeredgewidth=1.5,
        label=f"threshold {threshold:.2f}",
        clip_on=False,
        zorder=5,
    )


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)


def _whole_counts(axes: Axes) -> None:
    """Label the ticks of a logarithmic count 1, 10, 100, and not 10⁰."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", labelsize=SMALL)
