"""The forms of the JSON that evaluations and promotions store."""

from collections.abc import Mapping

from pydantic import Field

from db.models.documents import FindingRule, Measured
from db.models.kept import Kept

Interval = tuple[float, float] | None
"""The ends of a 95 % interval, or None if the effect of chance cannot be estimated."""


class PairedMetric(Kept):
    """One metric of two model versions on the same slices, their difference (first less second), and its 95 % interval.

    JSON and the API name the two versions `candidate` and `champion`, although any two versions can be compared.
    `p_lower`: the one-sided p-value. It is the chance of measuring this difference or a lower one if the two versions
    are equally good.
    """

    first: float | None = Field(validation_alias="candidate", serialization_alias="candidate")
    second: float | None = Field(validation_alias="champion", serialization_alias="champion")
    difference: float | None
    low: float | None
    high: float | None
    p_lower: float | None = None

    def swapped(self) -> "PairedMetric":
        """Return the same comparison with the two versions exchanged."""
        return PairedMetric(
            first=self.second,
            second=self.first,
            difference=_negated(self.difference),
            low=_negated(self.high),
            high=_negated(self.low),
            p_lower=None if self.p_lower is None else 1.0 - self.p_lower,
        )


PairedMetrics = Mapping[str, PairedMetric]
"""Comparisons by the name of the metric."""


class SiteCheck(Kept):
    """The verdict on a model version at a site.

    `ood_share`: the share of slices that are out of distribution, or None if the engine gives no distance.
    `more_groups`: how many more groups like these would give an even chance of a clear verdict, or None if not known.
    """

    verdict: str
    reasons: list[str] = Field(default_factory=list)
    floors: dict[str, float] = Field(default_factory=dict)
    groups: dict[str, int] = Field(default_factory=dict)
    more_groups: int | None = None
    ood_share: float | None = None


class Metrics(Measured):
    """The metrics on slices. Each metric has a 95 % interval."""

    intervals: dict[str, Interval] = Field(default_factory=dict)


class GroupMetrics(Metrics):
    """The metrics of a rule of findings on groups (patients). Here `n` counts groups.

    A group is COVID if one of its slices is. `left_out`: the groups without a slice of the lungs. `no_verdict`: the
    groups to which the rule gives no verdict, because too many of their slices are out of distribution. Neither are in
    `n`. If `n` is 0, all metrics are None. `tuned_slices`: how many of the slices the rule was tuned on, or on groups
    with their names. If any, the metrics may be too good. `tuned_on`: the hash of the dataset on which the rule was
    tuned, or None if that dataset was not in the database.
    """

    rule: FindingRule
    left_out: int = 0
    no_verdict: int = 0
    tuned_slices: int = 0
    tuned_on: str | None = None


class VersionMetrics(Metrics):
    """The metrics that are stored with a model version.

    `measured_on`: the slices. `measured_with`: the engine. `by_group`: the same metrics by groups. `heat`: how well the
    heat maps match drawn lesions, only for the demo model.
    """

    ood_share: float | None = None
    by_group: GroupMetrics | None = None
    by_source: dict[str, Metrics] = Field(default_factory=dict)
    measured_on: str = ""
    measured_with: str = ""
    heat: dict[str, float] = Field(default_factory=dict)


class EvaluationResult(Metrics):
    """The result of an evaluation.

    `engine`: the engine that gave the scores. A slice is positive from `threshold` on. `by_group`: the metrics of
    groups. `against`: the comparison with each version that was evaluated on the same slices, by the label of the
    version. `site_check`: only for a whole dataset.
    """

    engine: str = ""
    threshold: float | None = None
    ood_share: float | None = None
    by_group: GroupMetrics | None = None
    against: dict[str, dict[str, PairedMetric]] = Field(default_factory=dict)
    site_check: SiteCheck | None = None


def _negated(value: float | None) -> float | None:
    return None if value is None else 0.0 - value
