"""Temperatures and thresholds: on logits whose calibration is known, and at the edges."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from training.evaluation.calibrate import choose_threshold, fit_temperature, plain_temperature
from worker.engines.package import probability


def overconfident(n: int = 4000, factor: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits `factor` times as large as the truth that labels were drawn from."""
    rng = np.random.default_rng(5)
    honest = rng.normal(0, 2, n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-honest))).astype(np.uint8)
    return honest * factor, labels


def test_probabilities_of_large_logits_stay_in_range():
    assert probability([-2000.0, 0.0, 2000.0], 1.0).tolist() == [0.0, 0.5, 1.0]
    assert probability([2.0], 2.0) == pytest.approx([1 / (1 + np.exp(-1))])


def test_temperature_undoes_overconfidence_and_no_other_does_better():
    logit, labels = overconfident()
    temperature = fit_temperature(logit, labels)
    assert temperature == pytest.approx(3.0, rel=0.1)
    losses = [log_loss(labels, probability(logit, t)) for t in np.geomspace(0.25, 8, 200)]
    assert log_loss(labels, probability(logit, temperature)) <= min(losses) + 1e-6


def test_perfectly_separated_slices_keep_the_temperature_in_bounds():
    assert fit_temperature([-3.0, -2.0, 2.0, 3.0], [0, 0, 1, 1]) == pytest.approx(0.25, rel=1e-3)
    assert fit_temperature([-3.0, -2.0, 2.0, 3.0], [1, 1, 0, 0]) == pytest.approx(8, rel=1e-3)


def groups_of(count: int, wrong: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Logits of `count` groups of 20 slices, well calibrated but for `wrong` groups that are all on the wrong side."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(count) % 2, 20)
    logit = np.where(labels == 1, 2.5, -2.5) + rng.normal(0, 1.5, len(labels))
    logit[: 20 * wrong] *= -1
    return logit, labels, [str(n // 20) for n in range(len(labels))]


def test_one_wholly_wrong_group_does_not_decide_the_temperature():
    logit, labels, groups = groups_of(8, wrong=1)
    assert fit_temperature(logit, labels) > 1.4
    assert fit_temperature(logit, labels, groups) == pytest.approx(1)
    scores = probability(logit, 1.0)
    assert abs(choose_threshold(scores, labels, "youden-1se", groups) - 0.5) < 0.01


def test_temperature_that_groups_agree_on_is_chosen():
    logit, labels = overconfident()
    groups = [str(n % 40) for n in range(len(labels))]
    assert fit_temperature(logit, labels, groups) == pytest.approx(3.0, rel=0.15)
    shifted = probability(logit - 3.0, 3.0)  # half of what is ill scores below 0.5
    steady = choose_threshold(shifted, labels, "youden-1se", groups)
    assert abs(steady - probability([-1.0], 1.0)[0]) < 0.12
    assert steady < 0.4


@pytest.mark.parametrize("groups", ["one in all", "one of each class", "one of COVID"])
def test_single_group_of_a_class_leaves_the_plain_values(groups):
    """With so little information, the best values of the slices are far off: they are not even tried."""
    logit, labels = overconfident(320)
    names = {"one in all": "all", "one of each class": "ill", "one of COVID": "ill"}
    well = {"one in all": "all", "one of each class": "well"}
    by_group = [names[groups] if label else well.get(groups, f"p{n // 20}") for n, label in enumerate(labels)]
    assert fit_temperature(logit, labels, by_group) == 1
    assert fit_temperature(logit, labels, by_group, plain=1.25) == 1.25
    assert choose_threshold(probability(logit - 3, 1.0), labels, "youden-1se", by_group) == 0.5


@pytest.mark.parametrize("count", [8, 40])
def test_groups_without_a_mistake_do_not_send_the_temperature_to_its_bound(count):
    labels = np.repeat(np.arange(count) % 2, 25)
    logit = np.where(labels == 1, 4.0, -4.0) + np.random.default_rng(2).normal(0, 0.5, len(labels))
    groups = [str(n // 25) for n in range(len(labels))]
    temperature = fit_temperature(logit, labels, groups)
    assert fit_temperature(logit, labels) == pytest.approx(0.25, rel=1e-3)
    assert temperature == 1
    unsure = fit_temperature(logit / 4, labels, groups)  # at 1, more than a quarter of the groups is expected wrong
    expected = (1 - probability(np.abs(logit / 4), unsure)).mean() * count
    assert unsure < 1
    assert expected == pytest.approx(1, rel=0.01), "it stops where one wrong group is expected"


def test_temperature_of_a_loss_is_the_plain_one():
    assert plain_temperature(0.0, 0.0) == 1
    assert plain_temperature(0.2, 0.0) == pytest.approx(1.25)
    assert plain_temperature(0.0, 0.05) == pytest.approx(0.95)
    assert plain_temperature(1.0, 0.0) == 8
    logit, labels, groups = groups_of(8, wrong=1)
    assert fit_temperature(logit, labels, groups, plain=1.25) == pytest.approx(1.25)


def test_youden_takes_the_middle_of_the_gap_between_the_classes():
    assert choose_threshold([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]) == pytest.approx(0.4)


def test_youden_is_the_best_of_all_cuts():
    logit, labels = overconfident(500)
    scores = probability(logit - 2.0, 3.0)

    def youden(cut: float) -> float:
        return float((scores[labels == 1] >= cut).mean() - (scores[labels == 0] >= cut).mean())

    assert youden(choose_threshold(scores, labels)) == max(youden(cut) for cut in np.append(scores, 1.1))


def test_equally_good_thresholds_are_decided_by_the_widest_room():
    # One cut between 0.2 and 0.3, one between 0.5 and 0.9: both miss or falsely call one slice.
    assert choose_threshold([0.2, 0.3, 0.5, 0.9], [0, 1, 0, 1]) == pytest.approx(0.7)


@pytest.mark.parametrize("floor", [0.5, 0.9, 0.95, 1.0])
def test_sensitivity_floor_gives_the_highest_threshold_that_keeps_it(floor):
    logit, labels = overconfident(500)
    scores = probability(logit, 3.0)
    ill = scores[labels == 1]
    threshold = choose_threshold(scores, labels, f"sensitivity>={floor}")
    assert (ill >= threshold).mean() >= floor
    higher = min(score for score in np.append(ill, 2.0) if score > threshold) + 1e-9
    assert (ill >= higher).mean() < floor


@pytest.mark.parametrize("rule", ["", "best", "sensitivity>=", "sensitivity>=much", "sensitivity>=0", "sensitivity>=2"])
def test_unknown_rule_is_refused_by_name(rule):
    with pytest.raises(ValueError, match=r"the threshold rule .* does not exist"):
        choose_threshold([0.1, 0.9], [0, 1], rule)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_threshold_needs_both_classes(labels):
    with pytest.raises(ValueError, match="both classes"):
        choose_threshold([0.1, 0.9], labels)


def test_invalid_scores_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature([np.nan, 1.0], [0, 1])
    with pytest.raises(ValueError, match="one score and one label"):
        fit_temperature([], [])
    with pytest.raises(ValueError, match="one score and one label"):
        choose_threshold([0.5], [0, 1])
