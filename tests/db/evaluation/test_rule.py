"""The gate's rule on metrics of the test's choice: each verdict at its edges."""

import pytest
from scipy.stats import norm

from db.evaluation.result import Metrics, PairedMetric
from db.evaluation.rule import (
    COMPARED,
    LEAST_GROUPS,
    NO_EVIDENCE,
    NOT_SHOWN,
    PASSED,
    REFUSED,
    Floors,
    Ruling,
    Seen,
    few_for_margin,
    rule,
    worst_metric,
)
from db.metrics import METRICS, Difference

MANY = {"COVID": LEAST_GROUPS, "non-COVID": LEAST_GROUPS}
GOOD = Metrics(recall=0.9, specificity=0.9, auc=0.95, class_groups=MANY)
MARGIN = 0.02


def pair(low: float, high: float) -> PairedMetric:
    """A difference with this interval, and the p-value that belongs to it."""
    middle, error = (low + high) / 2, (high - low) / 2 / 1.96
    return PairedMetric(
        first=0.9 + middle, second=0.9, difference=middle, low=low, high=high, p_lower=float(norm.cdf(middle / error))
    )


EVEN = dict.fromkeys((*COMPARED, "brier"), pair(-0.01, 0.02))


UNSEEN = Seen()


def judged(metrics: Metrics = GOOD, seen: Seen = UNSEEN, **pairs: PairedMetric) -> Ruling:
    return rule(metrics, EVEN | pairs, Floors(), MARGIN, seen)


def test_candidate_that_is_at_most_the_margin_worse_passes() -> None:
    assert judged() == Ruling(PASSED, [])
    assert judged(brier=pair(-0.2, -0.1)).verdict == PASSED, "it is not compared in this metric"


@pytest.mark.parametrize("name", COMPARED)
def test_lower_end_at_the_margin_is_not_shown(name: str) -> None:
    assert judged(**{name: pair(-0.0199, 0.03)}).verdict == PASSED
    found = judged(**{name: pair(-0.02, 0.03)})
    assert found.verdict == NOT_SHOWN
    assert len(found.reasons) == 1
    assert METRICS[name].name in found.reasons[0]
    assert "−0.020 to +0.030" in found.reasons[0]


def test_difference_without_an_interval_is_not_shown() -> None:
    unknown = PairedMetric(first=0.9, second=0.9, difference=0.0, low=None, high=None)
    assert judged(auc=unknown).verdict == NOT_SHOWN


@pytest.mark.parametrize("name", COMPARED)
def test_worse_beyond_chance_in_any_compared_metric_is_refused(name: str) -> None:
    found = judged(**{name: pair(-0.2, -0.05)})
    assert found.verdict == REFUSED
    [why] = found.reasons
    assert why == f"its {METRICS[name].name} is {Difference.WORSE}: the difference is −0.200 to −0.050"


def test_certain_loss_within_the_margin_passes() -> None:
    assert judged(auc=pair(-0.018, -0.002)).verdict == PASSED


def test_one_of_four_intervals_just_below_zero_is_not_beyond_chance() -> None:
    assert judged(auc=pair(-0.2, -0.001)).verdict == NOT_SHOWN
    several = dict.fromkeys(COMPARED, pair(-0.2, -0.001))
    assert judged(**several).verdict == NOT_SHOWN
    assert judged(**several | {"recall": pair(-0.2, -0.05)}).verdict == REFUSED


def test_holms_procedure_goes_on_with_the_others() -> None:
    # p of 0.003 passes 0.025 / 4, and p of 0.008 then 0.025 / 3; alone the second would not pass 0.025 / 4.
    first, second = (
        PairedMetric(first=0.8, second=0.9, difference=-0.1, low=-0.2, high=-0.01, p_lower=p) for p in (0.003, 0.008)
    )
    assert len(judged(auc=first, recall=second).reasons) == 2
    assert judged(recall=second).verdict == NOT_SHOWN


@pytest.mark.parametrize(("name", "floor"), [("recall", 0.85), ("specificity", 0.80), ("auc", 0.90)])
def test_measured_value_below_its_floor_is_refused(name: str, floor: float) -> None:
    assert judged(GOOD.model_copy(update={name: floor})).verdict == PASSED
    found = judged(GOOD.model_copy(update={name: floor - 0.0001}))
    assert (found.verdict, len(found.reasons)) == (REFUSED, 1)
    assert judged(GOOD.model_copy(update={name: None})).verdict == REFUSED


def test_value_just_below_its_floor_is_written_so_that_the_two_differ() -> None:
    found = judged(GOOD.model_copy(update={"recall": 0.8496, "specificity": 0.7999996}))
    assert found.reasons == [
        "its sensitivity of 0.8496 is below the floor of 0.8500",
        "its specificity of 0.7999996 is below the floor of 0.8000000",
    ]


def test_floors_hold_on_few_groups_too() -> None:
    everything_covid = Metrics(recall=1.0, specificity=0.0, auc=0.55, class_groups={"COVID": 2, "non-COVID": 2})
    assert judged(everything_covid).verdict == REFUSED


def test_too_few_groups_of_a_class_are_not_enough_evidence() -> None:
    for groups in ({"COVID": 19, "non-COVID": 20}, {"COVID": 20, "non-COVID": 1}, {"COVID": 50}):
        found = judged(GOOD.model_copy(update={"class_groups": groups}))
        assert (found.verdict, len(found.reasons)) == (NO_EVIDENCE, 1)
    assert "only 1 group of non-COVID;" in judged(
        GOOD.model_copy(update={"class_groups": {"COVID": 20, "non-COVID": 1}})
    ).reasons[0]  # fmt: skip


def test_slices_that_trained_the_candidate_are_not_evidence() -> None:
    assert judged(seen=Seen(4, 400)).verdict == PASSED
    assert judged(seen=Seen(5, 400)).verdict == NO_EVIDENCE


def test_worst_metric_is_the_one_whose_interval_reaches_lowest() -> None:
    assert worst_metric(EVEN | {"recall": pair(-0.1, 0.1), "brier": pair(-0.5, 0)}) == "recall"
    assert worst_metric({}) is None


@pytest.mark.parametrize(
    ("groups", "effective", "margin", "few"),
    [
        ({"COVID": 150, "non-COVID": 150}, {"COVID": 55.4, "non-COVID": 150.0}, 0.02, "about 55 of COVID"),
        ({"COVID": 40, "non-COVID": 60}, {}, 0.02, "about 40 of COVID and 60 of non-COVID"),
        ({"COVID": 150, "non-COVID": 150}, {"COVID": 100.0, "non-COVID": 150.0}, 0.02, None),
        ({"COVID": 40, "non-COVID": 60}, {}, 0.05, None),
        ({"COVID": 40, "non-COVID": 60}, {}, 0.0, None),
    ],
)
def test_test_part_with_too_few_effective_groups_for_the_margin_is_reported(
    groups: dict[str, int], effective: dict[str, float], margin: float, few: str | None
) -> None:
    lines = few_for_margin(Metrics(class_groups=groups, effective_groups=effective), margin)
    if few is None:
        assert lines == []
    else:
        assert lines == [
            "about 100 groups of equal size of each class are needed to pass with the margin of 0.02; the test part"
            f" counts like {few}"
        ]
