"""The site check: whether a model version may be used at a site, by a labelled sample of that site's slices.

The rule. Sensitivity, specificity and AUC each have a floor. The model

- may be used where the lower ends of all three 95 % intervals reach their floors, on at least 20 groups of each class
  (with fewer, an interval by resampling groups is too narrow to be believed; that of a sample without a mistake is no
  interval at all);
- may not be used where the upper end of one is below its floor;
- else there is not enough evidence. An interval narrows with the root of the number of groups; from that follows how
  many more would settle it, if they are like those that are there.

Slices that the model was trained on, or its threshold chosen, are no evidence, nor are those near-identical to one;
neither are slices of which no patient is known, for several may be of one. Where they are more than one in a hundred,
there is no evidence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from db import CLASSES
from db.metrics import METRICS

MAY, MAY_NOT, UNKNOWN = "may be used", "may not be used", "not enough evidence"
LEAST_GROUPS = 20  # of each class
TOLERATED = 0.01  # share of slices that the model may know already, or of which no patient is known
MUCH_APART = 0.05  # share of slices unlike the model's own that is worth a word; training allows itself as much
HOPELESS = 20  # so many times the groups there are, and more of them is no advice


@dataclass(frozen=True)
class Floors:
    """What the lower ends of the intervals must reach."""

    recall: float = 0.85
    specificity: float = 0.80
    auc: float = 0.90


CHECKED = ("recall", "specificity", "auc")


@dataclass(frozen=True)
class SiteCheck:
    """The verdict on one model version at one site. `apart`: share of slices unlike those the model knows, where the
    engine tells; `more_groups`: how many more would settle it, where that can be said."""

    verdict: str
    reasons: list[str]
    floors: dict[str, float]
    groups: dict[str, int]
    more_groups: int | None
    apart: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def count_groups(labels: ArrayLike, groups: Sequence[str]) -> dict[str, int]:
    """How many groups have a slice of each class; one with both counts for both."""
    truth, names = np.asarray(labels), np.asarray(groups)
    return {name: len(np.unique(names[truth == label])) for label, name in CLASSES.items()}


def check_site(
    result: Mapping[str, Any],
    groups: Mapping[str, int],
    floors: Floors,
    *,
    known: float = 0.0,
    nameless: float = 0.0,
    apart: float | None = None,
) -> SiteCheck:
    """The verdict by the rule above.

    Args:
        result: figures with their intervals, as `metrics.with_intervals` gives them.
        groups: by class, as `count_groups` gives them.
        floors: of this model version.
        known: share of the slices that the model was trained on, or its threshold chosen.
        nameless: share of the slices of which no patient, series or folder is known.
        apart: share of the slices that are unlike those the model knows.
    """
    bounds = {name: (result[name], *(result["intervals"][name] or (None, None))) for name in CHECKED}
    asked = {name: getattr(floors, name) for name in CHECKED}
    below = [n for n, (_, _, high) in bounds.items() if high is not None and high < asked[n]]
    short = [n for n, (_, low, _) in bounds.items() if low is None or low < asked[n]]
    few = [f"only {n} groups of {c}, {LEAST_GROUPS} are needed" for c, n in groups.items() if n < LEAST_GROUPS]
    more = None
    if known > TOLERATED or nameless > TOLERATED:
        verdict, reasons = UNKNOWN, _no_evidence(known, nameless)
    elif below:
        verdict, reasons = MAY_NOT, [_line(n, bounds[n], asked[n]) for n in below]
    elif short or few:
        verdict, reasons = UNKNOWN, [*few, *(_line(n, bounds[n], asked[n]) for n in short)]
        more = _more_groups(bounds, asked, groups, short)
        reasons += _advice(more)
    else:
        verdict, reasons = MAY, [_line(n, bounds[n], asked[n]) for n in CHECKED]
    if apart is not None and apart > MUCH_APART:
        reasons.append(f"{apart:.0%} of the slices lie apart from those the model knows")
    return SiteCheck(verdict, reasons, asked, dict(groups), more, apart)


def _no_evidence(known: float, nameless: float) -> list[str]:
    found = []
    if known > TOLERATED:
        seen = f"the model was trained or tuned on {known:.0%} of these slices, or near-identical ones"
        found.append(f"{seen}: they are no evidence")
    if nameless > TOLERATED:
        found.append(
            f"no patient is known of {nameless:.0%} of these slices, and many slices of one are not many patients: name"
            " them in a CSV (file, label, group)"
        )
    return found


def _line(name: str, bounds: tuple[float | None, float | None, float | None], floor: float) -> str:
    value, low, high = bounds
    metric = METRICS[name]
    if value is None:
        missing = " or no ".join(CLASSES[label] for label in metric.classes)
        return f"{metric.name} is not known: there is no {missing} slice"
    interval = f" ({low:.3f} to {high:.3f})" if low is not None else " (one group: no interval)"
    return f"{metric.name} {value:.3f}{interval}, floor {floor:.2f}"


def _more_groups(
    bounds: Mapping[str, tuple[float | None, float | None, float | None]],
    floors: Mapping[str, float],
    groups: Mapping[str, int],
    short: Sequence[str],
) -> int | None:
    """How many more groups, of both classes in all, would move the near end of every short interval to its floor."""
    needed = {each: max(LEAST_GROUPS, number) for each, number in groups.items()}
    for name in short:
        value, low, high = bounds[name]
        if value is None or low is None or high is None:
            continue
        gap = value - floors[name]
        near = low if gap > 0 else high
        times = ((value - near) / gap) ** 2 if gap else math.inf
        if times > HOPELESS:
            return None
        for each in (CLASSES[label] for label in METRICS[name].classes):
            needed[each] = max(needed[each], math.ceil(times * groups[each] - 1e-6))
    return sum(needed[each] - groups[each] for each in groups)


def _advice(more: int | None) -> list[str]:
    if more is None:
        return ["a figure is so close to its floor that more groups would hardly settle it"]
    return [f"about {more} more groups would settle it, if they are like these"] if more else []
