"""The site check: decides whether a model version may be used at a site, by labelled slices of that site.

Sensitivity, specificity and AUC each have a floor. The verdict is one of three:

- The model may be used if the lower ends of all three 95 % intervals reach their floors, and each class has at least 20
  groups. With fewer groups, an interval from resampling groups is too rough for a decision.
- The model may not be used if the upper end of one interval is below its floor.
- Otherwise there is not enough evidence. Then ctbatch estimates how many further groups, like those of the dataset,
  would give an even chance of a clear verdict. An interval gets narrower with the root of the number of groups.
  An interval that begins at the limit of groups without a mistake gets narrower with that limit. If the groups have
  unequal numbers of slices, ctbatch also estimates this for groups of equal size, and says if that needs fewer groups.

These kinds of slices are not evidence:

- slices that the model was trained on or its threshold was chosen on, and slices near-identical to them;
- slices without a known patient, because several slices may be of one patient;
- slices whose group comes from DICOM headers, if the headers name a patient for nearly each slice;
- slices whose group has the name of a group that the model was trained or calibrated on.

If one of these kinds makes up more than 1 % of the slices, there is not enough evidence. If a dataset was deleted that
the model was trained on, nobody can find out whether its slices are among these. Then the check never says that the
model may be used, and suggests no further groups.

If most groups (patients) get no verdict by the rule of findings, because they show too little lung or too many of their
slices are out of distribution, the check never says that the model may be used either.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from db import CLASSES
from db.evaluation.result import GroupMetrics, Metrics, SiteCheck
from db.evaluation.rule import (
    CLEARLY_FEWER,
    FLOORED,
    LEAST_GROUPS,
    MUCH_FEWER,
    NO_EVIDENCE,
    TOLERATED,
    Floors,
    few_groups,
    uneven_groups,
)
from db.metrics import METRICS, digits_beside, missing_slice
from training.data.seen_slices import gone_note
from training.evaluation.intervals import end_without_a_mistake

Bounds = Mapping[str, tuple[float | None, float | None, float | None]]
"""A metric and the ends of its interval, by the name of the metric."""

MAY, MAY_NOT, UNKNOWN = "may be used", "may not be used", NO_EVIDENCE
MUCH_OOD = 0.05  # a check reports a larger share of slices out of distribution; training allows the same share
MUCH_NO_VERDICT = 0.05  # a check reports a larger share of groups without a verdict
MOST_NO_VERDICT = 0.5  # with a larger share of groups without a verdict, there is not enough evidence
ROUNDING = 1e-6  # of the end of an interval
MAX_SUGGESTED_FACTOR = 20  # do not suggest collecting more than 20 times today's groups
DELETED = "slices that the model learned from were deleted: this check can only show that the model may not be used"


@dataclass(frozen=True)
class Evidence:
    """How much the slices count as evidence, as shares of slices.

    `seen`: the model was trained on these slices, or its threshold was chosen on these slices. `named`: other slices,
    whose group has the name of a group that the model was trained or calibrated on. `without_patient`: no patient,
    series or folder is known. `lack`: what the slices without a patient lack, as the end of a sentence. `ood`: out of
    distribution, or None. `by_group`: the metrics of groups, which count the groups without a verdict, or None.
    `doubts`: a line for each doubt about the labels and the choice of the slices. `gone`: how many slices that the
    model learned from are gone. `deleted`: somebody deleted some of them. `unknown`: a line for each reason why slices
    that the model learned from are not in this database. If slices are gone or unknown, `seen` may be too low.
    """

    seen: float = 0.0
    named: float = 0.0
    without_patient: float = 0.0
    lack: str = "have no known patient"
    ood: float | None = None
    by_group: GroupMetrics | None = None
    doubts: Sequence[str] = field(default_factory=list)
    gone: int = 0
    deleted: bool = False
    unknown: Sequence[str] = field(default_factory=list)


def check_site(metrics: Metrics, floors: Floors, evidence: Evidence) -> SiteCheck:
    """Return the verdict by the rule at the head of this module."""
    groups = metrics.class_groups
    bounds = {name: (getattr(metrics, name), *(metrics.intervals.get(name) or (None, None))) for name in FLOORED}
    wanted = {name: getattr(floors, name) for name in FLOORED}
    below = [n for n, (_, _, high) in bounds.items() if high is not None and high < wanted[n]]
    short = [n for n, (_, low, _) in bounds.items() if low is None or low < wanted[n]]
    few = few_groups(groups)
    more = None
    uneven = uneven_groups(metrics)
    without_verdict, no_verdict = _without_verdict(evidence.by_group)
    if reasons := _no_evidence(evidence):
        verdict = UNKNOWN
    elif below:
        verdict, reasons = MAY_NOT, [_line(n, bounds[n], wanted[n]) for n in below]
    elif evidence.deleted:
        verdict, reasons = UNKNOWN, [DELETED, *(_line(n, bounds[n], wanted[n]) for n in FLOORED)]
    elif without_verdict > MOST_NO_VERDICT:
        verdict, reasons = UNKNOWN, [no_verdict, *(_line(n, bounds[n], wanted[n]) for n in FLOORED)]
    elif short or few:
        more, advice, uneven = _undecided(metrics, bounds, wanted, short)
        verdict, reasons = UNKNOWN, [*few, *(_line(n, bounds[n], wanted[n]) for n in short), *advice]
    else:
        verdict, reasons = MAY, [_line(n, bounds[n], wanted[n]) for n in FLOORED]
    if without_verdict > MUCH_NO_VERDICT and no_verdict not in reasons:
        reasons.append(no_verdict)
    if evidence.ood is not None and evidence.ood > MUCH_OOD:
        reasons.append(f"{evidence.ood:.0%} of the slices are out of distribution: unlike those that the model knows")
    reasons += uneven
    reasons += evidence.doubts
    if evidence.gone:
        reasons.append(gone_note(evidence.gone))
    reasons += evidence.unknown
    return SiteCheck(
        verdict=verdict,
        reasons=reasons,
        floors=wanted,
        groups=dict(groups),
        more_groups=more,
        ood_share=evidence.ood,
    )


def _undecided(
    metrics: Metrics, bounds: Bounds, floors: Mapping[str, float], short: Sequence[str]
) -> tuple[int | None, list[str], list[str]]:
    """Return how many more groups would help, lines of advice, and lines about unequal groups.

    `short`: the metrics whose interval does not reach its floor.
    """
    groups, effective = metrics.class_groups, {**metrics.class_groups, **metrics.effective_groups}
    needed = _effective_groups_needed(bounds, floors, effective, short)
    more, of_equal_size = (_more_groups(needed, groups, number) for number in (effective, groups))
    known = all(low is not None for _, low, _ in bounds.values())
    then = _with_equal_sizes(more, of_equal_size) if known else ""
    uneven = uneven_groups(metrics, CLEARLY_FEWER if short else MUCH_FEWER, then)
    is_enough = uneven and known and of_equal_size == 0  # equal numbers of slices are
    return more, [] if is_enough else _advice(more, known=known), uneven


def _without_verdict(groups: GroupMetrics | None) -> tuple[float, str]:
    """Return the share of groups that get no verdict, and a line that says so."""
    if groups is None or not (number := groups.left_out + groups.no_verdict):
        return 0.0, ""
    count = number + (groups.n or 0)
    parts = ((groups.left_out, "show too little lung"), (groups.no_verdict, "have too many slices out of distribution"))
    why = " and ".join(f"{part:,} {reason}" for part, reason in parts if part)
    return number / count, f"{number:,} of {count:,} groups (patients) get no verdict: {why}"


def _no_evidence(evidence: Evidence) -> list[str]:
    reasons = []
    if evidence.seen > TOLERATED:
        reasons.append(
            f"the model was trained or calibrated on {evidence.seen:.0%} of these slices, or near-identical ones: they"
            " are not evidence"
        )
    if evidence.named > TOLERATED:
        reasons.append(
            f"{evidence.named:.0%} of these slices are in groups with the names of groups that the model was trained or"
            " calibrated on: if they are other patients, give them other names in a CSV (file, label, group)"
        )
    if evidence.without_patient > TOLERATED:
        reasons.append(
            f"{evidence.without_patient:.0%} of these slices {evidence.lack}, and many slices of one patient are not"
            " many patients: name the patients in a CSV (file, label, group)"
        )
    return reasons


def _line(name: str, bounds: tuple[float | None, float | None, float | None], floor: float) -> str:
    value, low, high = bounds
    metric = METRICS[name]
    if value is None:
        return f"{metric.name} is not known: there is {missing_slice(name)}"
    digits = digits_beside(floor, *bounds)
    interval = (
        f" ({low:.{digits}f} to {high:.{digits}f})" if low is not None else " (one group of a class: no interval)"
    )
    return f"{metric.name} {value:.{digits}f}{interval}, floor {floor:.{digits}f}"


def _effective_groups_needed(
    bounds: Bounds,
    floors: Mapping[str, float],
    effective: Mapping[str, float],
    short: Sequence[str],
) -> dict[str, float] | None:
    """Return, by class, with how many effective groups each undecided interval would end at its floor.

    Return None if that is too many to suggest. `effective`: today's numbers.
    """
    needed: dict[str, float] = {}
    for name in short:
        value, low, high = bounds[name]
        if value is None or low is None or high is None:
            continue
        kinds = [CLASSES[label] for label in METRICS[name].classes]
        gap = value - floors[name]
        is_at_limit = gap > 0 and low >= end_without_a_mistake(min(effective[kind] for kind in kinds)) - ROUNDING
        times = ((value - (low if gap > 0 else high)) / gap) ** 2 if gap else math.inf
        if times > MAX_SUGGESTED_FACTOR and not is_at_limit:
            return None
        for kind in kinds:
            number = _groups_without_a_mistake(floors[name]) if is_at_limit else times * effective[kind]
            needed[kind] = max(needed.get(kind, 0), number)
    return needed


def _more_groups(
    needed: Mapping[str, float] | None, groups: Mapping[str, int], effective: Mapping[str, float]
) -> int | None:
    """Return how many more groups are needed, of both classes together, if `groups` count like `effective` groups.

    Return None if `needed` is None.
    """
    if needed is None:
        return None
    more = 0
    for kind, count in groups.items():
        like_these = math.ceil(needed[kind] * count / effective[kind] - 1e-6) if kind in needed else 0
        more += max(like_these, LEAST_GROUPS, count) - count
    return more


def _with_equal_sizes(more: int | None, of_equal_size: int | None) -> str:
    """Return what equal numbers of slices would change, as the end of a line, or "" if they would change nothing."""
    if more is None or of_equal_size is None or of_equal_size >= more:
        return ""
    if not of_equal_size:
        return ": then there would be an even chance of a clear verdict"
    return f": then about {of_equal_size} more {'group' if of_equal_size == 1 else 'groups'} would be enough"


def _groups_without_a_mistake(floor: float) -> int:
    """Return how many groups without a mistake have an interval that begins at the floor, by the rule of three."""
    return math.ceil(math.log(0.05) / math.log(floor))


def _advice(more: int | None, *, known: bool) -> list[str]:
    """Return a line about how many more groups are needed. `known`: every metric has an interval for this estimate."""
    if more is None:
        return ["a metric is very close to its floor; even many more groups may not give a clear verdict"]
    if not more:
        return []
    groups = f"{more} more {'group' if more == 1 else 'groups'}"
    if not known:
        return [f"at least {groups} are needed"]
    return [f"about {groups} like these would give an even chance of a clear verdict"]
