"""Computes the 95 % interval of a metric from its values on resampled groups.

The interval is between two percentiles. With few groups, these percentiles are too close together, so they are moved
outwards. For 16 groups, they move from 2.5 and 97.5 to 1.4 and 98.6 (Hesterberg, What Teachers Should Know About the
Bootstrap, The American Statistician, 2015). A share of slices gets the interval of Clopper and Pearson. Its number of
trials is chosen so that its variance is that of the resamples (Korn and Graubard, Survey Methodology, 1998).

Resamples know only the mistakes that were seen. If no group has a mistake, all resamples are 1. If a few groups have a
mistake each, the resamples say nothing about patients that are wholly missed. So the lower end is at most the lower end
for g successes in g trials, which is 0.05 to the power of 1/g. This is about 1 - 3/g, the "rule of three" (Hanley and
Lippman-Hand, JAMA, 1983). Thus g groups with mistakes never show more than g groups without one. The upper end has the
mirrored limit. If a metric needs both classes, g counts the groups of the rarer class. For the precision, g is also at
most the number of groups with a positive slice, because the other groups say nothing about it.

If groups have unequal numbers of slices, the number of groups is Kish's effective number, which is lower. With the
plain number, intervals would be too narrow: one large group that is wholly wrong can change a metric more than many
small groups.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from db.evaluation.result import Interval

TAIL = 0.025  # the probability on each side of an interval
SHARES = ("accuracy", "recall", "specificity", "precision")  # of slices
LIMITED = (*SHARES, "f1", "auc", "pr_auc")  # metrics that are 1 if there is no mistake


def end_without_a_mistake(groups: float) -> float:
    """Return the lower end of the interval of a metric if no group has a mistake."""
    return float(0.05 ** (1 / groups))


def interval_of(name: str, value: float | None, drawn: NDArray[np.floating[Any]], groups: float) -> Interval:
    """Return the 95 % interval of a metric from its resamples. `groups`: the effective number of groups.

    Return None if the metric or most of its resamples are undefined, or if there is only one group, because all its
    resamples are equal.
    """
    defined = drawn[~np.isnan(drawn)]
    if value is None or groups < 2 or len(defined) * 2 < len(drawn):
        return None
    low, high = _ends(name, value, defined, groups)
    if name not in LIMITED and not low == high in (0, 1):
        return low, high
    limit = end_without_a_mistake(groups)
    return min(low, limit), max(high, 1 - limit)


def _ends(name: str, value: float, drawn: NDArray[np.floating[Any]], groups: float) -> tuple[float, float]:
    tail = float(stats.norm.cdf(stats.t.ppf(TAIL, groups - 1) * np.sqrt(groups / (groups - 1))))
    low, high = (float(end) for end in np.quantile(drawn, (tail, 1 - tail)))
    variance = float(drawn.var()) * groups / (groups - 1)
    if name not in SHARES or variance == 0 or value in (0, 1):
        return low, high
    trials = value * (1 - value) / variance * float(stats.norm.ppf(TAIL) / stats.t.ppf(TAIL, groups - 1)) ** 2
    right, wrong = trials * value, trials * (1 - value)
    return float(stats.beta.ppf(TAIL, right, wrong + 1)), float(stats.beta.ppf(1 - TAIL, right + 1, wrong))
