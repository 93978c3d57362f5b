"""Chooses the rule of findings, its k and its threshold on labelled groups, by nested cross-validation.

The groups are divided into outer folds. For each outer fold, the other folds choose a rule and a threshold, by an inner
cross-validation among themselves. Then the outer fold, which had no part in the choice, is judged. All these verdicts
together show how well the procedure works. The same inner procedure on all groups chooses the rule to store. That rule
itself is not judged on these groups (Varma and Simon, Bias in error estimation when using cross-validation for model
selection, BMC Bioinformatics 7, 2006).

A rule is chosen by its balanced accuracy in the inner folds. Of all rules within one standard error of the best, the
plainest is chosen (the rule of Breiman et al., Classification and Regression Trees, 1984), because with few groups the
best rule is often best only by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from db.findings.rules import DEFAULT_K, RULES, default_rule, rule_named
from db.metrics import groups_not_counted
from db.models.documents import FindingRule, Rate, Tuning
from training.evaluation.calibrate import choose_threshold
from training.evaluation.group_level import ScoredGroups
from training.evaluation.metrics import count_groups, with_intervals

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

OUTER, INNER = 5, 4  # numbers of folds
LEAST_UNITS = 10  # least number of units of each class, so that each outer fold has two
TRIED_K = (DEFAULT_K, 3, 5, 20, 40)  # the plainest first
RATES = ("accuracy", "recall", "specificity", "precision")


class CannotTune(Exception):
    """A rule cannot be tuned on this dataset. The message says why, and what to do."""


@dataclass(frozen=True)
class _Choice:
    """The number of a candidate rule, and its threshold."""

    candidate: int
    threshold: float


def candidates(names: Sequence[str] = ()) -> list[FindingRule]:
    """Return the rules to try, plainest first: all rules, or those with these names. Raises UnknownRule."""
    rules = [rule_named(name) for name in names or RULES]
    return [
        FindingRule(rule=rule.name, version=rule.version, k=k, threshold=0.5)
        for rule in dict.fromkeys(rules)
        for k in (TRIED_K if rule.takes_k else (None,))
    ]


def tune(
    groups: ScoredGroups,
    units: Sequence[int],
    tried: Sequence[FindingRule],
    *,
    dataset: str,
    dataset_hash: str | None,
    engine: str,
    threshold: float,
    seed: int,
    notes: Sequence[str] = (),
) -> FindingRule:
    """Choose a rule from those in `tried`, and return it with the estimate in `tuned`.

    `units`: a number for each group. Groups with the same number share slices, and stay in the same fold. `threshold`:
    the threshold of the model version. The default rule uses it, and the chosen rule is compared with the default rule.

    The same seed gives the same rule. Raises CannotTune: a class has too few units.
    """
    unit_of = np.asarray(units, np.intp)
    counts = count_groups(groups.labels, units)
    _check_classes(counts, groups_not_counted(groups.left_out, groups.no_verdict))
    scores = np.stack([groups.scores(rule) for rule in tried])
    verdicts = np.zeros(len(groups.labels))
    chosen = []
    folds = _folds(groups.labels, unit_of, OUTER, seed)
    for number in range(OUTER):
        inside, outside = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        choice = _choose(scores[:, inside], groups.labels[inside], unit_of[inside], seed + 1 + number)
        verdicts[outside] = scores[choice.candidate, outside] >= choice.threshold
        chosen.append(f"{tried[choice.candidate].name} from {choice.threshold:.3f}")
    final = _choose(scores, groups.labels, unit_of, seed)
    plain = default_rule(threshold)
    tuning = Tuning(
        dataset=dataset,
        dataset_hash=dataset_hash,
        engine=engine,
        seed=seed,
        groups=counts,
        joined_groups=len(np.unique(unit_of)),
        named_groups=len(groups.names),
        left_out=groups.left_out,
        no_verdict=groups.no_verdict,
        held_out=_rates(verdicts, groups.labels, unit_of),
        by_default=_rates(groups.scores(plain) >= plain.threshold, groups.labels, unit_of),
        chosen=chosen,
        notes=list(notes),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return tried[final.candidate].model_copy(update={"threshold": final.threshold, "tuned": tuning})


def _check_classes(counts: Mapping[str, int], apart: str) -> None:
    """Raise CannotTune if a class has too few groups. `apart`: which groups of the dataset are not in `counts`."""
    not_counted = f". Not counted: {apart}" if apart else ""
    if missing := [name for name, count in counts.items() if not count]:
        which = "group that counts" if apart else "group of the dataset"
        what = f"{which} is {' or '.join(missing)}" if len(missing) < len(counts) else "group counts"
        raise CannotTune(f"no {what}; a rule needs groups of both classes{not_counted}")
    if few := [f"{count} of {name}" for name, count in counts.items() if count < LEAST_UNITS]:
        raise CannotTune(
            f"there are too few groups (patients): {' and '.join(few)}; at least {LEAST_UNITS} of each class are"
            f" needed. Groups that share slices count as one{not_counted}"
        )


def _folds(labels: NDArray[np.uint8], units: Indices, count: int, seed: int) -> Indices:
    """Return the fold of each group.

    Units are distributed in random order. Units with COVID are distributed first, so that the folds are alike.
    """
    names, index = np.unique(units, return_inverse=True)
    ill = np.zeros(len(names), np.bool_)
    np.logical_or.at(ill, index, labels == 1)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(~ill[order], kind="stable")]
    fold = np.empty(len(names), np.intp)
    fold[order] = np.arange(len(names)) % count
    return np.asarray(fold[index])


def _choose(scores: Array, labels: NDArray[np.uint8], units: Indices, seed: int) -> _Choice:
    """Return the best candidate in the inner folds, and its threshold on all these groups. `scores`: [c, g]."""
    folds = _folds(labels, units, INNER, seed)
    called = np.zeros(scores.shape, np.bool_)
    for number in range(INNER):
        inside, outside = folds != number, folds == number
        for candidate, own in enumerate(scores):
            called[candidate, outside] = own[outside] >= choose_threshold(own[inside], labels[inside])
    found, cleared = called[:, labels == 1].mean(1), 1 - called[:, labels == 0].mean(1)
    balanced = (found + cleared) / 2
    best = int(balanced.argmax())
    ill, well = int((labels == 1).sum()), int((labels == 0).sum())
    variance = found[best] * (1 - found[best]) / ill + cleared[best] * (1 - cleared[best]) / well
    plainest = int(np.flatnonzero(balanced >= balanced[best] - np.sqrt(variance) / 2 - 1e-12)[0])
    return _Choice(plainest, choose_threshold(scores[plainest], labels))


def _rates(verdicts: NDArray[np.floating | np.bool_], labels: NDArray[np.uint8], units: Indices) -> dict[str, Rate]:
    """Return the rates of verdicts (0 or 1 [g]), with intervals by resampling units.

    Leave out a rate that does not exist, such as the share of COVID verdicts that are right, if there is no COVID
    verdict.
    """
    called, names = np.asarray(verdicts, np.float64), [str(unit) for unit in units]
    metrics = with_intervals(called, labels, names, 0.5)
    cleared = with_intervals(1 - called, 1 - labels, names, 0.5)
    measured = {name: (getattr(metrics, name), metrics.intervals.get(name)) for name in RATES}
    measured["negative_precision"] = cleared.precision, cleared.intervals.get("precision")
    rates = {}
    for name, (value, interval) in measured.items():
        if value is not None:
            low, high = interval or (None, None)
            rates[name] = Rate(value=value, low=low, high=high)
    return rates
