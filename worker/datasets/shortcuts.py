"""Finds shortcuts: predicts the class from facts of a file, without its picture.

A network could learn these facts instead of the disease.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from db import SHORTCUT_AUC
from db.models.slices import slashed
from worker.datasets.collector import Item

MOST_SLICES = 20_000  # more slices do not change the metrics
WEAK_AUC = 0.65
"""A fact with at least this AUC predicts the class to some extent. With SHORTCUT_AUC or more, it predicts the class
well. In a public set of CT slices the file type alone predicts the class 74 % of the time. Chance reaches 0.6 with a
few dozen groups."""
_FOLDS = 5
_WORDS = 30  # the most patterns or modes that are kept apart; all rarer patterns or modes count as one
_LEAF = 5  # least number of slices in a leaf of a tree

Columns = NDArray[np.float64]
Folds = list[tuple[NDArray[Any], NDArray[Any]]]  # indices of the slices to learn from, and of those to measure on
Fact = Callable[[Sequence[Item]], Columns]


def _one_hot(values: Sequence[str]) -> Columns:
    names, counts = np.unique(np.array(values, object).astype(str), return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")[:_WORDS]]
    return np.array([[value == name for name in frequent] for value in values], np.float64)


def name_pattern(item: Item) -> str:
    """Return a file's name without folders, extension and numbers. For `Covid (12).png` that is `covid (#)`."""
    file = slashed(item.name).rpartition("/")[2]
    stem = file.rpartition(".")[0] or file
    return re.sub(r"\d+", "#", stem.lower())


def _size(items: Sequence[Item]) -> Columns:
    sides = np.array([[item.width or 0, item.height or 0] for item in items], np.float64)
    return np.column_stack([sides, sides.prod(1), sides[:, 0] / np.maximum(sides[:, 1], 1)])


FACTS: dict[str, Fact] = {
    "format": lambda items: _one_hot([item.format or "" for item in items]),
    "mode": lambda items: _one_hot([item.mode or "" for item in items]),
    "width × height": _size,
    "bytes": lambda items: np.array([[item.bytes or 0] for item in items], np.float64),
    "name pattern": lambda items: _one_hot([name_pattern(item) for item in items]),
}
NAME = "name pattern"
OF_PICTURE, ALL = "all but the name", "all with the name"
"""Facts taken together."""


class FactScore(TypedDict):
    """The metrics of predicting the class from facts, measured on unseen groups."""

    balanced_accuracy: float
    auc: float


class Verdict(TypedDict):
    """Whether a fact predicts the class well (`found`) or to some extent (`weak`).

    The file's name does not count, because no network sees it.
    """

    found: bool
    weak: bool
    verdict: str


class Shortcuts(Verdict):
    """The verdict, and a score for each fact, for OF_PICTURE and for ALL."""

    facts: dict[str, FactScore]


def check_shortcuts(slices: Sequence[Item]) -> Shortcuts:
    """Predict the class from the facts of files, with decision trees that are cross-validated by group."""
    from sklearn.model_selection import StratifiedGroupKFold

    if len(slices) > MOST_SLICES:
        chosen = np.random.default_rng(0).choice(len(slices), MOST_SLICES, replace=False)
        slices = [slices[place] for place in sorted(chosen)]
    labels = np.array([item.label for item in slices])
    groups = np.unique([str(item.group) for item in slices], return_inverse=True)[1]
    folds = min(_FOLDS, *(len(np.unique(groups[labels == label])) for label in (0, 1)))
    if folds < 2:
        verdict = "not measured: each class needs two groups at least"
        return Shortcuts(facts={}, found=False, weak=False, verdict=verdict)
    kept_apart = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    parts = list(kept_apart.split(np.zeros((len(labels), 1)), labels, groups))
    columns = {fact: values(slices) for fact, values in FACTS.items()}
    of_picture = [values for fact, values in columns.items() if fact != NAME]
    columns[OF_PICTURE] = np.hstack(of_picture)
    columns[ALL] = np.hstack([*of_picture, columns[NAME]])
    facts = {fact: _score(values, labels, parts) for fact, values in columns.items()}
    return Shortcuts(facts=facts, **_judge(facts))


def _score(columns: Columns, labels: NDArray[Any], parts: Folds) -> FactScore:
    """Return the metrics of the trees on groups that they have not seen."""
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score
    from sklearn.tree import DecisionTreeClassifier

    probability = np.full(len(labels), 0.5)
    for seen, unseen in parts:
        if len(np.unique(labels[seen])) == 2:
            tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=_LEAF, class_weight="balanced", random_state=0)
            probability[unseen] = tree.fit(columns[seen], labels[seen]).predict_proba(columns[unseen])[:, 1]
    probability = probability.round(6)  # without this, sums that should be 0.5 differ by rounding errors
    return FactScore(
        balanced_accuracy=round(float(balanced_accuracy_score(labels, probability > 0.5)), 4),
        auc=round(float(roc_auc_score(labels, probability)), 4),
    )


def _judge(facts: dict[str, FactScore]) -> Verdict:
    visible = {fact: score for fact, score in facts.items() if fact not in (NAME, ALL)}
    best = max(visible, key=lambda fact: visible[fact]["auc"])
    auc, accuracy = visible[best]["auc"], visible[best]["balanced_accuracy"]
    cause = "format, mode, size and bytes of a file together" if best == OF_PICTURE else f"the {best} of a file alone"
    predict = "predict" if best == OF_PICTURE else "predicts"
    metrics = f"(AUC {auc:.2f}, balanced accuracy {accuracy:.2f}, on groups not seen)"
    if auc >= SHORTCUT_AUC:
        verdict = f"a shortcut: {cause} {predict} the class {metrics}; a network may learn that instead of disease"
    elif auc >= WEAK_AUC:
        verdict = f"a weak shortcut: {cause} {predict} the class to some extent {metrics}"
    else:
        verdict = f"no shortcut: the facts of a file alone do not predict the class {metrics}"
    if facts[NAME]["auc"] >= SHORTCUT_AUC:
        verdict += "; its name does, but a network never sees it"
    return Verdict(found=auc >= SHORTCUT_AUC, weak=WEAK_AUC <= auc < SHORTCUT_AUC, verdict=verdict)
