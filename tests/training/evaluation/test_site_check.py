"""The site check's verdict by its stated rule, at each of its edges."""

from typing import Any

import numpy as np
import pytest

from db.evaluation.result import GroupMetrics, Metrics, SiteCheck
from db.evaluation.rule import Floors
from db.findings.rules import default_rule
from training.evaluation.metrics import count_groups, with_intervals
from training.evaluation.site_check import MAY, MAY_NOT, UNKNOWN, Evidence, check_site

MANY = {"COVID": 40, "non-COVID": 60}
EQUAL_SIZES = "for narrower intervals, use about the same number of slices of each group"
GOOD = {"recall": (0.95, 0.90, 0.98), "specificity": (0.9, 0.86, 0.94), "auc": (0.97, 0.95, 0.99)}


def result(groups: dict[str, int] = MANY, **figures: tuple[float | None, float | None, float | None]) -> Metrics:
    chosen = GOOD | figures
    intervals = {name: None if low is None else (low, high) for name, (_, low, high) in chosen.items()}
    values = {name: value for name, (value, _, _) in chosen.items()}
    return Metrics(**values, intervals=intervals, class_groups=groups)


def check(groups: dict[str, int] = MANY, **figures: Any):
    return check_site(result(groups, **figures), Floors(), Evidence())


def test_model_whose_intervals_lie_above_the_floors_may_be_used():
    found = check()
    assert (found.verdict, found.more_groups) == (MAY, None)
    assert found.reasons[0] == "sensitivity 0.950 (0.900 to 0.980), floor 0.850"
    assert len(found.reasons) == 3


def test_end_near_its_floor_is_written_so_that_the_two_differ():
    own = check_site(result(recall=(0.9, 0.853, 0.95)), Floors(recall=0.8549), Evidence())
    assert own.reasons[0] == "sensitivity 0.900 (0.853 to 0.950), floor 0.855"
    found = check(recall=(0.9, 0.8496, 0.95))
    assert found.reasons[0] == "sensitivity 0.9000 (0.8496 to 0.9500), floor 0.8500"


def test_lower_end_that_just_reaches_the_floor_is_enough():
    assert check(recall=(0.9, 0.85, 0.95)).verdict == MAY
    assert check(recall=(0.9, 0.849, 0.95)).verdict == UNKNOWN


def test_model_whose_training_slices_were_deleted_is_never_said_to_be_usable():
    evidence = Evidence(gone=60, deleted=True, unknown=["lungs/1 was trained on site/1"])
    found = check_site(result(), Floors(), evidence)
    assert (found.verdict, found.reasons[1:4]) == (UNKNOWN, check().reasons)
    assert found.reasons[0].endswith("this check can only show that the model may not be used")
    assert found.reasons[4].startswith("60 slices that the model learned from are gone")
    assert found.reasons[5] == "lungs/1 was trained on site/1"
    worse = check_site(result(recall=(0.6, 0.5, 0.7)), Floors(), Evidence(gone=60, deleted=True))
    assert worse.verdict == MAY_NOT


@pytest.mark.parametrize("groups", [MANY, {"COVID": 19, "non-COVID": 60}], ids=["many", "few"])
def test_no_more_groups_are_suggested_if_training_slices_were_deleted(groups):
    found = check_site(result(groups, recall=(0.90, 0.80, 0.96)), Floors(), Evidence(gone=60, deleted=True))
    assert (found.verdict, found.more_groups) == (UNKNOWN, None)
    assert not any("more groups" in reason or "groups of" in reason for reason in found.reasons)


@pytest.mark.parametrize("name", ["recall", "specificity", "auc"])
def test_one_metric_below_its_floor_forbids_use(name):
    found = check(**{name: (0.6, 0.5, 0.7)})
    assert found.verdict == MAY_NOT
    assert len(found.reasons) == 1
    assert "0.600 (0.500 to 0.700)" in found.reasons[0]


def test_interval_across_the_floor_suggests_how_many_more_groups():
    # The lower end is twice as far from 0.90 as the floor is: four times the 40 groups are needed.
    found = check(recall=(0.90, 0.80, 0.96))
    assert (found.verdict, found.more_groups) == (UNKNOWN, 120)
    assert found.reasons[-1] == "about 120 more groups like these would give an even chance of a clear verdict"


def test_metric_below_its_floor_by_chance_suggests_more_groups_too():
    # The upper end is twice as far above 0.80 as the floor is.
    assert check(recall=(0.80, 0.70, 0.90)).more_groups == 120


def test_sample_without_a_mistake_suggests_what_the_rule_of_three_needs():
    few = {"COVID": 21, "non-COVID": 22}
    found = check(few, auc=(1.0, 0.05 ** (1 / 21), 1.0))
    assert (found.verdict, found.more_groups) == (UNKNOWN, 8 + 7), "29 groups of each class: 0.05 ** (1 / 29) > 0.90"
    assert check_site(result(few, auc=(1.0, 0.8, 1.0)), Floors(auc=1.0), Evidence()).more_groups is None


def test_few_mistakes_suggest_no_fewer_groups_than_none():
    few = {"COVID": 5, "non-COVID": 60}
    found = check(few, recall=(0.98, 0.05 ** (1 / 5), 1.0), auc=(0.999, 0.05 ** (1 / 5), 1.0))
    assert (found.verdict, found.more_groups) == (UNKNOWN, 24), "29 groups of COVID"


def test_metric_on_its_floor_suggests_no_more_groups():
    found = check(recall=(0.85, 0.75, 0.92))
    assert (found.verdict, found.more_groups) == (UNKNOWN, None)
    assert found.reasons[-1].startswith("a metric is very close to its floor")


def test_few_groups_without_a_mistake_are_not_enough():
    right = dict.fromkeys(("recall", "specificity", "auc"), (1.0, 1.0, 1.0))
    found = check({"COVID": 5, "non-COVID": 20}, **right)
    assert (found.verdict, found.more_groups) == (UNKNOWN, 15)
    assert found.reasons[0] == "only 5 groups of COVID; at least 20 are needed"
    assert found.reasons[-1] == "about 15 more groups like these would give an even chance of a clear verdict"


def test_missing_class_is_named():
    found = check({"COVID": 0, "non-COVID": 30}, recall=(None, None, None), auc=(None, None, None))
    assert found.verdict == UNKNOWN
    assert "sensitivity is not known: there is no COVID slice" in found.reasons
    assert "AUC is not known: there is no COVID slice or no non-COVID slice" in found.reasons


def test_one_group_has_no_interval():
    alone = dict.fromkeys(("recall", "specificity", "auc"), (0.9, None, None))
    found = check({"COVID": 1, "non-COVID": 1}, **alone)
    assert found.verdict == UNKNOWN
    assert found.reasons[0] == "only 1 group of COVID; at least 20 are needed"
    assert "AUC 0.900 (one group of a class: no interval), floor 0.900" in found.reasons
    assert found.reasons[-1] == "at least 38 more groups are needed", "nothing says how many would give a clear verdict"


def test_slices_the_model_was_trained_on_are_not_evidence():
    assert check_site(result(), Floors(), Evidence(seen=0.01)).verdict == MAY
    found = check_site(result(), Floors(), Evidence(seen=1.0))
    assert (found.verdict, found.reasons) == (
        UNKNOWN,
        ["the model was trained or calibrated on 100% of these slices, or near-identical ones: they are not evidence"],
    )


def test_slices_without_a_known_patient_are_not_evidence():
    assert check_site(result(), Floors(), Evidence(without_patient=0.01)).verdict == MAY
    found = check_site(result(recall=(0.5, 0.4, 0.6)), Floors(), Evidence(without_patient=0.5))
    assert found.verdict == UNKNOWN
    assert found.reasons[0].startswith("50% of these slices have no known patient")
    assert found.reasons[0].endswith("name the patients in a CSV (file, label, group)")


def test_many_slices_out_of_distribution_are_mentioned():
    assert len(check_site(result(), Floors(), Evidence(ood=0.05)).reasons) == 3
    found = check_site(result(), Floors(), Evidence(ood=0.4))
    assert found.reasons[-1].startswith("40% of the slices are out of distribution")
    assert found.ood_share == 0.4


def test_slices_that_cannot_be_compared_with_lost_ones_are_mentioned():
    found = check_site(result(), Floors(), Evidence(gone=1200))
    assert (found.verdict, len(found.reasons)) == (MAY, 4)
    assert found.reasons[-1].startswith("1,200 slices that the model learned from are gone")


def test_sources_of_training_slices_that_are_not_known_here_are_mentioned():
    found = check_site(result(), Floors(), Evidence(unknown=["the training slices are elsewhere"]))
    assert (found.verdict, found.reasons[3:]) == (MAY, ["the training slices are elsewhere"])


def of_groups(counted: int, no_verdict: int, left_out: int = 0) -> GroupMetrics:
    return GroupMetrics(n=counted, left_out=left_out, no_verdict=no_verdict, rule=default_rule(0.5))


@pytest.mark.parametrize(("counted", "no_verdict"), [(0, 60), (29, 31)], ids=["all", "most"])
def test_model_that_gives_most_groups_no_verdict_is_never_said_to_be_usable(counted, no_verdict):
    evidence = Evidence(by_group=of_groups(counted, no_verdict))
    found = check_site(result(), Floors(), evidence)
    line = f"{no_verdict} of 60 groups (patients) get no verdict: {no_verdict} have too many slices out of distribution"
    assert (found.verdict, found.reasons, found.more_groups) == (UNKNOWN, [line, *check().reasons], None)
    assert check_site(result(recall=(0.6, 0.5, 0.7)), Floors(), evidence).verdict == MAY_NOT


@pytest.mark.parametrize(("counted", "no_verdict", "left_out"), [(0, 0, 60), (4, 6, 50)], ids=["all", "most"])
def test_model_is_never_said_to_be_usable_if_most_groups_show_no_lungs(counted, no_verdict, left_out):
    found = check_site(result(), Floors(), Evidence(by_group=of_groups(counted, no_verdict, left_out)))
    start = f"{no_verdict + left_out} of 60 groups (patients) get no verdict: {left_out} show too little lung"
    assert (found.verdict, found.reasons[1:]) == (UNKNOWN, check().reasons)
    assert found.reasons[0].startswith(start)


@pytest.mark.parametrize(
    ("groups", "lines"), [((30, 30), 4), ((57, 3), 3), ((0, 0), 3), ((30, 0, 30), 4), ((57, 0, 3), 3), ((56, 2, 2), 4)]
)
def test_groups_without_a_verdict_are_mentioned_if_they_are_many(groups, lines):
    found = check_site(result(), Floors(), Evidence(by_group=of_groups(*groups)))
    assert (found.verdict, len(found.reasons)) == (MAY, lines)


def test_doubts_about_the_labels_are_mentioned():
    found = check_site(result(), Floors(), Evidence(doubts=["readers disagree"]))
    assert (found.verdict, found.reasons[3:]) == (MAY, ["readers disagree"])


def test_version_may_have_a_higher_floor():
    assert check_site(result(), Floors(recall=0.95), Evidence()).verdict == UNKNOWN


def test_group_with_both_classes_counts_for_both():
    assert count_groups([1, 1, 0, 0], ["a", "a", "a", "b"]) == {"COVID": 1, "non-COVID": 2}


def test_groups_of_very_unequal_size_are_reported():
    uneven = result().model_copy(update={"effective_groups": {"COVID": 9.6, "non-COVID": 31.0}})
    found = check_site(uneven, Floors(), Evidence())
    assert found.verdict == MAY, "the intervals are already wide enough"
    assert found.reasons[3:] == [
        "the 40 groups of COVID have unequal numbers of slices, and count like about 10 groups of equal size",
        EQUAL_SIZES,
    ]


def without_a_mistake(well: list[int], ill: list[int], joined: int = 0) -> SiteCheck:
    """Check a model without a mistake on patients with these numbers of slices.

    `joined`: how many of the healthy patients share slices.
    """
    sizes = {f"well{number}": size for number, size in enumerate(well)}
    sizes |= {f"ill{number}": size for number, size in enumerate(ill)}
    groups = [name for name, size in sizes.items() for _ in range(size)]
    unit_of = {name: name for name in sizes} | {f"well{number}": "well0" for number in range(joined)}
    labels = np.array([name.startswith("ill") for name in groups], int)
    metrics = with_intervals(np.where(labels, 0.9, 0.1), labels, groups, 0.5, unit_of=unit_of, resamples=100)
    return check_site(metrics, Floors(), Evidence())


def test_check_that_one_large_patient_makes_unclear_does_not_ask_for_more_patients():
    assert without_a_mistake([30] * 40, [30] * 40).verdict == MAY
    found = without_a_mistake([30] * 40, [30] * 40 + [600])
    assert (found.verdict, found.reasons[2:]) == (
        UNKNOWN,
        [
            "the 41 groups of COVID have unequal numbers of slices, and count like about 8 groups of equal size: the"
            " largest one has 33% of the slices",
            f"{EQUAL_SIZES}: then there would be an even chance of a clear verdict",
        ],
    )


def test_check_says_that_the_largest_group_was_joined():
    found = without_a_mistake([5] * 60, [5] * 60, joined=15)
    assert found.verdict == UNKNOWN
    assert found.reasons[2].endswith(
        "the largest one has 25% of the slices and was joined from 15 groups that share slices"
    )


def test_check_states_an_effective_number_above_half_of_the_count_if_an_interval_misses_its_floor():
    found = without_a_mistake([25] * 29 + [100], [25] * 32)
    assert found.reasons[1].startswith(
        "the 30 groups of non-COVID have unequal numbers of slices, and count like about 24"
    )
    clear = without_a_mistake([25] * 60 + [200], [25] * 60)
    assert (clear.verdict, len(clear.reasons)) == (MAY, 3)


def test_check_asks_for_fewer_patients_if_they_have_equal_numbers_of_slices():
    found = without_a_mistake([30] * 25 + [150], [30] * 40)
    assert (
        found.reasons[1]
        == f"about {found.more_groups} more groups like these would give an even chance of a clear verdict"
    )
    assert found.reasons[3] == f"{EQUAL_SIZES}: then about 3 more groups would be enough"
    assert found.more_groups > 3


def test_sample_of_unequal_groups_without_a_mistake_suggests_more_groups_like_these():
    few = result({"COVID": 40, "non-COVID": 40}, auc=(1.0, 0.05 ** (1 / 20), 1.0))
    few = few.model_copy(update={"effective_groups": {"COVID": 20.0, "non-COVID": 40.0}})
    assert check_site(few, Floors(), Evidence()).more_groups == 18, "58 groups of COVID count like 29"
