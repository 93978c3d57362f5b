"""Writes the captions of a training report: a sentence or two about each figure."""

import math
from collections.abc import Sequence

import numpy as np

from db.training.progress import EpochRecord
from training.report.content import ReportContent, number, percent
from training.report.figures.slice_grids import MOST_AUGMENTED, MOST_MISTAKES
from training.report.figures.training import MOST_SOURCES


def confusion(content: ReportContent) -> str:
    """Count the slices that were found, missed, cleared or false alarms."""
    (tn, fp), (fn, tp) = content.metrics.confusion_matrix
    return (
        f"Of {_slices(tp + fn, 'COVID')}, {tp:,} are found and {fn:,} missed; of {_slices(tn + fp, 'non-COVID')}, "
        f"{tn:,} are cleared and {fp:,} raise a false alarm. The stronger the colour, the larger the share of its row."
    )


def roc(content: ReportContent) -> str:
    """Explain the curve, and give the AUC as a share of pairs."""
    auc = content.metrics.auc
    pairs = f" A COVID slice scores above a non-COVID one in {percent(auc, 1)} of all pairs." if auc is not None else ""
    return (
        "The share of COVID slices that are found, against the share of false alarms, for each threshold."
        f"{pairs} The dot is the threshold in use."
    )


def precision_recall(content: ReportContent) -> str:
    """Explain the curve and the dotted line."""
    return (
        "Precision (the share of slices labelled COVID that are COVID), against sensitivity (the share of COVID slices "
        "that are found). The dotted line shows the share of COVID in these slices: guessing has this precision. Other "
        "data has another share."
    )


def reliability(content: ReportContent) -> str:
    """Explain how to read the figure, and give the ECE."""
    ece = content.metrics.ece
    gap = f" On average the two differ by {100 * ece:.1f} points." if ece is not None else ""
    return (
        "Slices are binned by their probability. Below the dotted line COVID is rarer than the model says, above it "
        f"more common.{gap} Small dots are bins of few slices, so they scatter. The bars below count the slices."
    )


def scores(content: ReportContent) -> str:
    """Explain the histograms, and count the slices near the threshold."""
    near = np.abs(content.test.probability - content.threshold) <= 0.1
    total = len(near)
    return (
        "Slices on the wrong side of the threshold (dashed) are errors. The scale of the counts is logarithmic. "
        f"{int(near.sum()):,} of {total:,} slices ({percent(int(near.sum()), total)}) lie within 0.1 of the threshold."
    )


def distance(content: ReportContent) -> str:
    """Count the test slices that are out of distribution."""
    if content.test.distance is None or content.ood_threshold is None:
        return "How far each test slice lies from the training slices in the network's features."
    finite = content.test.distance[np.isfinite(content.test.distance)]
    beyond = int((finite > content.ood_threshold).sum())
    return (
        "How far each test slice lies from the training slices in the network's features. "
        f"{beyond:,} of {len(finite):,} ({percent(beyond, len(finite))}) lie beyond the threshold: they are out of "
        "distribution."
    )


def learning(content: ReportContent) -> str:
    """Count the epochs, and name the best one."""
    epochs, stages = len(content.history), len({record.stage for record in content.history})
    text = f"{_count(epochs, 'epoch')} in {_count(stages, 'stage')}."
    best = _best(content.history)
    if best is not None:
        text += f" The lowest validation loss, {number(best[1])}, was that of epoch {best[0]}."
    return text + (" The dashed line shows the champion's training, by its own epochs." if content.champion else "")


def by_source(content: ReportContent) -> str:
    """Explain the whiskers, and say which sources are left out."""
    left_out = max(len(content.by_source) - MOST_SOURCES, 0)
    return (
        "The metrics of each source, with its number of slices. Whiskers are 95\u202f% intervals. A metric is left out "
        "if the source has no slice of a class that the metric needs."
    ) + (f" The {left_out:,} smallest sources are left out." if left_out else "")


def augmented(content: ReportContent) -> str:
    """Count the slices that are shown."""
    total = 0 if content.augmented is None else len(content.augmented)
    return f"{_count(min(total, MOST_AUGMENTED), 'training slice')} as augmentation hands them to the network."


def mistakes(content: ReportContent) -> str:
    """Count the mistakes that are shown, and explain the colours."""
    shown = min(len(content.mistakes), MOST_MISTAKES)
    return (
        f"The most confident wrong predictions ({_count(shown, 'slice')}): each slice, and beside it the same slice "
        "with its heat map. A brighter and warmer place speaks more for COVID. The numbers are rows of the dataset: "
        "ctbatch datasets slices lists them."
    )


def _best(history: Sequence[EpochRecord]) -> tuple[int, float] | None:
    """Return the epoch with the lowest finite validation loss, and this loss. All stages are counted, from 1."""
    epochs = sorted(history, key=lambda record: (record.stage, record.epoch))
    losses = [(at, record.metrics.get("val_loss")) for at, record in enumerate(epochs, start=1)]
    finite = [(at, loss) for at, loss in losses if loss is not None and math.isfinite(loss)]
    return min(finite, key=lambda pair: pair[1]) if finite else None


def _slices(count: int, kind: str) -> str:
    return f"{count:,} {kind} slice{'' if count == 1 else 's'}"


def _count(number_of: int, word: str) -> str:
    return f"{number_of:,} {word}{'' if number_of == 1 else 's'}"
