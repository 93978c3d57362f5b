"""Figures against scikit-learn's, intervals against resamples drawn out, and comparisons of two models."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from db.metrics import METRICS
from db.models.documents import LargestGroup
from training.evaluation import metrics as evaluate
from training.evaluation.metrics import Verdicts, compare, measure, with_intervals

THRESHOLD = 0.45


def scored(slices: int = 400, groups: int = 40, noise: float = 1.0, seed: int = 3):
    """Probabilities (rounded, so that there are ties), labels and groups; slices of a group are alike."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, slices)
    labels = (group % 2).astype(np.uint8)
    of_group = rng.normal(0, noise, groups)[group]
    logit = 2.0 * labels - 1 + of_group + rng.normal(0, 0.5, slices)
    return np.round(1 / (1 + np.exp(-logit)), 2), labels, [f"p{number}" for number in group]


def by_sklearn(probability, labels) -> dict[str, float]:
    called = probability >= THRESHOLD
    return {
        "accuracy": metrics.accuracy_score(labels, called),
        "precision": metrics.precision_score(labels, called, zero_division=0),
        "recall": metrics.recall_score(labels, called),
        "specificity": metrics.recall_score(labels, called, pos_label=0),
        "f1": metrics.f1_score(labels, called, zero_division=0),
        "auc": metrics.roc_auc_score(labels, probability),
        "pr_auc": metrics.average_precision_score(labels, probability),
        "brier": metrics.brier_score_loss(labels, probability),
    }


def test_metrics_equal_scikit_learns():
    probability, labels, _ = scored()
    found = measure(probability, labels, THRESHOLD)
    assert tuple(found) == tuple(METRICS)
    for name, value in by_sklearn(probability, labels).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_calibration_error_is_the_gap_in_each_bin_weighed_by_its_slices():
    # Two slices in the bin of 0.9, one of them ill; two in the bin of 0.1, none ill; 1.0 belongs to the last bin.
    assert measure([0.9, 0.9, 0.1, 0.1], [1, 0, 0, 0], 0.5)["ece"] == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert measure([1.0, 0.0], [1, 0], 0.5)["ece"] == 0.0
    assert measure([1.0, 0.0, 0.0], [1, 1, 0], 0.5)["ece"] == pytest.approx(1 / 3)  # slices at 0 count too


def test_slice_at_the_threshold_is_positive_in_all_metrics():
    found = measure([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 0], 0.5)
    assert (found["recall"], found["specificity"], found["precision"]) == (1.0, 0.0, 0.75)


def test_group_weights_equal_resampled_slices():
    probability, labels, groups = scored(120, 12)
    names, index = np.unique(groups, return_inverse=True)
    slices = evaluate.ScoredSlices.of(probability, labels, THRESHOLD)
    for weights in next(evaluate.resample_groups(index, len(names), 0, 20)):
        drawn = np.repeat(np.arange(len(labels)), weights.astype(int))
        found = {name: value[0] for name, value in slices.metrics(weights[None]).items()}
        for name, value in by_sklearn(probability[drawn], labels[drawn]).items():
            assert found[name] == pytest.approx(value, abs=1e-12), name


def test_intervals_contain_the_metric_and_do_not_depend_on_blocks(monkeypatch):
    probability, labels, groups = scored()
    found = with_intervals(probability, labels, groups, THRESHOLD)
    assert (found.n, found.groups) == (400, 40)
    assert found.confusion_matrix == metrics.confusion_matrix(labels, probability >= THRESHOLD).tolist()
    assert found.intervals.keys() == METRICS.keys()
    for name in evaluate.RESAMPLED:
        low, high = found.intervals[name]
        assert low < high
        assert low - 0.02 <= getattr(found, name) <= high + 0.02, name
    monkeypatch.setattr(evaluate, "BLOCK", 400 * 7)
    again = with_intervals(probability, labels, groups, THRESHOLD)
    for name in evaluate.RESAMPLED:
        assert again.intervals[name] == pytest.approx(found.intervals[name], abs=1e-12), name


def test_intervals_over_groups_are_wider_than_over_slices():
    probability, labels, groups = scored(noise=2.0)
    alone = [str(number) for number in range(len(labels))]

    def width(names: list[str]) -> float:
        low, high = with_intervals(probability, labels, names, THRESHOLD).intervals["accuracy"]
        return high - low

    assert width(groups) > 1.5 * width(alone)


@pytest.mark.slow
def test_95_of_100_intervals_contain_the_truth():
    truth = measure(*scored(200_000, 20_000, seed=1)[:2], THRESHOLD)["accuracy"]
    held = 0
    for seed in range(100, 200):
        probability, labels, groups = scored(200, 60, seed=seed)
        low, high = with_intervals(probability, labels, groups, THRESHOLD, resamples=300).intervals["accuracy"]
        held += low <= truth <= high
    assert 88 <= held <= 99


@pytest.mark.slow
@pytest.mark.parametrize("groups", [8, 16])
def test_intervals_of_few_groups_contain_the_truth_nearly_as_often(groups):
    """Percentiles of the resamples contain it in 79 % (8 groups) and 86 % (16 groups) of such samples."""
    truth = measure(*scored(200_000, 20_000, seed=1)[:2], THRESHOLD)["accuracy"]
    held = 0
    for seed in range(200):
        probability, labels, names = scored(25 * groups, groups, seed=seed)
        low, high = with_intervals(probability, labels, names, THRESHOLD, resamples=300).intervals["accuracy"]
        held += low <= truth <= high
    assert held >= 180


@pytest.mark.parametrize("count", [6, 40])
def test_groups_without_a_mistake_have_an_interval_by_the_rule_of_three(count):
    labels = np.repeat(np.arange(2 * count) % 2, 5)
    groups = [str(n // 5) for n in range(len(labels))]
    found = with_intervals(np.where(labels == 1, 0.9, 0.1), labels, groups, 0.5)
    for name in ("accuracy", "recall", "specificity", "precision", "f1", "auc", "pr_auc"):
        assert found.intervals[name] == pytest.approx((0.05 ** (1 / count), 1)), name
    wrong = with_intervals(np.where(labels == 1, 0.1, 0.9), labels, groups, 0.5)
    assert wrong.intervals["recall"] == pytest.approx((0, 1 - 0.05 ** (1 / count)))


@pytest.mark.parametrize(("found", "low"), [(2, 0.224), (4, 0.473), (40, 0.928)])
def test_precision_is_as_certain_as_the_groups_with_that_verdict(found, low):
    labels, groups = np.repeat([1, 0], 40), [str(n) for n in range(80)]
    called = np.where(np.arange(80) < found, 0.9, 0.1)
    assert with_intervals(called, labels, groups, 0.5).intervals["precision"] == pytest.approx((low, 1), abs=0.001)
    wrong = with_intervals(called[::-1], labels, groups, 0.5)
    assert wrong.intervals["precision"] == pytest.approx((0, 1 - low), abs=0.001)


@pytest.mark.parametrize(("healthy", "low"), [(0, None), (1, None), (2, 0.224), (40, 0.928)])
@pytest.mark.parametrize("name", ["precision", "f1"])
def test_precision_and_f1_are_as_certain_as_the_groups_without_disease(name, healthy, low):
    labels = np.repeat([1, 0], [40, 40 if healthy else 0])
    groups = [f"ill-{n}" if n < 40 else f"healthy-{n % healthy}" for n in range(len(labels))]
    model = Verdicts(np.where(labels == 1, 0.9, 0.1), 0.5)
    interval = with_intervals(model.probability, labels, groups, 0.5).intervals[name]
    assert interval == (None if low is None else pytest.approx((low, 1), abs=0.001))
    difference = compare(model, model, labels, groups)[name]
    assert (difference.high is None) == (low is None)
    assert low is None or difference.high > 1 / healthy


def test_difference_in_precision_is_as_certain_as_the_groups_with_that_verdict():
    labels, groups = np.repeat([1, 0], 40), [str(n) for n in range(80)]
    few, many = (Verdicts(np.where(np.arange(80) < found, 0.9, 0.1), 0.5) for found in (4, 40))
    assert compare(few, few, labels, groups)["precision"].high > 0.5
    assert compare(many, many, labels, groups)["precision"].high < 0.1
    assert compare(many, few, labels, groups)["precision"].high > 0.5


def perfect(groups: int, slices: int = 10):
    """Right probabilities of groups of each class, labels and groups."""
    labels = np.repeat([1, 0], groups * slices)
    return np.where(labels == 1, 0.9, 0.1), labels, [str(n) for n in np.repeat(np.arange(2 * groups), slices)]


RIGHT = ("accuracy", "recall", "specificity", "precision", "f1", "auc", "pr_auc")  # 1 without a mistake


@pytest.mark.parametrize("count", [6, 20, 40])
def test_lower_end_never_rises_when_a_slice_is_made_wrong(count):
    probability, labels, groups = perfect(count)
    before = with_intervals(probability, labels, groups, 0.5, resamples=300)
    for wrong in np.random.default_rng(count).permutation(len(labels))[:10]:
        probability[wrong] = 1 - probability[wrong]
        now = with_intervals(probability, labels, groups, 0.5, resamples=300)
        for name in RIGHT:
            # A false alarm may make the numbers of positive slices of the groups more equal.
            rise = 0.001 if name == "precision" else 0
            assert now.intervals[name][0] <= before.intervals[name][0] + rise, name
        before = now


def test_upper_end_never_falls_when_a_slice_is_made_right():
    probability, labels, groups = perfect(20)
    all_wrong = 1 - probability
    before = with_intervals(all_wrong, labels, groups, 0.5).intervals
    one_right = np.where(np.arange(len(labels)) % 200 == 0, probability, all_wrong)
    now = with_intervals(one_right, labels, groups, 0.5).intervals
    fell = {name for name in RIGHT if now[name][1] < before[name][1]}
    assert fell <= {"pr_auc"}, "its least value is not 0"


@pytest.mark.slow
@pytest.mark.parametrize("count", [20, 40])
def test_lower_end_is_seldom_above_the_truth_if_some_patients_are_wholly_missed(count):
    """Of patients, 5 % are wholly missed. Of the other slices, 2 % are wrong."""
    above = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        probability, labels, groups = perfect(count)
        missed = np.repeat(rng.random(2 * count) < 0.05, 10) | (rng.random(len(labels)) < 0.02)
        found = with_intervals(np.where(missed, 1 - probability, probability), labels, groups, 0.5, resamples=300)
        above += found.intervals["recall"][0] > 0.95 * 0.98
    assert above <= 5


def test_calibration_error_of_a_calibrated_model_is_that_of_chance():
    rng = np.random.default_rng(4)
    probability = 1 / (1 + np.exp(-rng.normal(0, 3, 400)))
    drawn = [measure(probability, rng.random(400) < probability, 0.5)["ece"] for _ in range(200)]
    assert evaluate.chance_calibration_error(probability) == pytest.approx(np.mean(drawn), rel=0.05)
    assert evaluate.chance_calibration_error(np.repeat(probability, 50)) < 0.01


@pytest.mark.parametrize(
    ("label", "undefined"),
    [(0, {"precision", "recall", "f1", "auc", "pr_auc"}), (1, {"specificity", "precision", "f1", "auc", "pr_auc"})],
)
def test_missing_class_leaves_only_its_metrics_undefined(label, undefined):
    found = with_intervals([0.2, 0.7, 0.6], [label] * 3, ["a", "b", "c"], 0.5)
    assert {name for name in METRICS if getattr(found, name) is None} == undefined
    assert {name for name, interval in found.intervals.items() if interval is None} == undefined | {"ece"}
    difference = compare(Verdicts([0.2, 0.7, 0.6], 0.5), Verdicts([0.1, 0.6, 0.3], 0.5), [label] * 3, ["a", "b", "c"])
    assert {name for name, one in difference.items() if one.difference is None} == undefined


def test_precision_is_undefined_if_nothing_is_called_positive():
    assert measure([0.1, 0.2], [0, 1], 0.5)["precision"] is None
    difference = compare(Verdicts([0.1, 0.2], 0.5), Verdicts([0.1, 0.9], 0.5), [0, 1], ["a", "b"])["precision"]
    assert (difference.first, difference.second, difference.difference) == (None, 1.0, None)


def test_resamples_without_a_positive_slice_do_not_lower_the_precision():
    labels, groups = np.repeat([1, 0], 40), [str(n) for n in range(80)]
    called = np.where(np.isin(np.arange(80), [0, 1, 2]), 0.9, 0.1)  # one resample in twenty has none of them
    assert with_intervals(called, labels, groups, 0.5).intervals["precision"][0] > 0.3


def test_one_group_has_metrics_without_intervals():
    found = with_intervals([0.1, 0.9], [0, 1], ["a", "a"], 0.5)
    assert found.accuracy == 1.0
    assert set(found.intervals.values()) == {None}
    paired = compare(Verdicts([0.1, 0.9], 0.5), Verdicts([0.9, 0.1], 0.5), [0, 1], ["a", "a"])["auc"]
    assert (paired.first, paired.second, paired.difference, paired.low, paired.high) == (1.0, 0.0, 1.0, None, None)


def test_class_of_one_group_leaves_its_metrics_without_intervals():
    labels, groups = [1] * 50 + [0] * 50, ["ill"] * 50 + [f"p{n % 5}" for n in range(50)]
    probability = np.array([0.2] * 3 + [0.9] * 47 + [0.1] * 49 + [0.8])
    found = with_intervals(probability, labels, groups, 0.5)
    none = {name for name, interval in found.intervals.items() if interval is None}
    assert none == METRICS.keys() - {"specificity"}, "a metric of all slices rests on that one group too"
    assert found.class_groups == {"COVID": 1, "non-COVID": 5}
    better = np.where(np.arange(100) == 0, 0.9, probability)
    difference = compare(Verdicts(probability, 0.5), Verdicts(better, 0.5), labels, groups)
    assert {name for name, one in difference.items() if one.high is None} == none
    assert difference["recall"].difference == pytest.approx(-0.02)


def test_model_does_not_differ_from_itself():
    probability, labels, groups = scored()
    model = Verdicts(probability, THRESHOLD)
    found = compare(model, model, labels, groups)
    for one in map(found.get, evaluate.RESAMPLED):
        assert one.low is not None
        assert one.high is not None
        assert (one.difference, one.p_lower) == (0.0, 0.5)
        assert one.low == -one.high < 0, "on these groups; others may differ"


def test_difference_of_few_groups_has_a_t_interval():
    # Per group the first model is right on 1 to 4 slices of 4 more than the second.
    gained = np.array([1, 2, 3, 4])
    labels, groups = np.ones(16), [str(n // 4) for n in range(16)]
    right = np.concatenate([np.arange(4) < n for n in gained])
    found = compare(
        Verdicts(np.where(right, 0.9, 0.1), 0.5), Verdicts(np.full(16, 0.1), 0.5), labels, groups, resamples=20_000
    )["recall"]
    expected = stats.ttest_1samp(gained / 4, 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, min(high, 1)), abs=0.02)
    assert found.p_lower == pytest.approx(1 - expected.pvalue / 2, abs=0.002)
    assert found.swapped().p_lower == pytest.approx(expected.pvalue / 2, abs=0.002)


def test_paired_difference_is_significant_although_intervals_overlap():
    probability, labels, groups = scored(noise=2.0)
    worse = np.clip(probability + np.where(labels == 1, -0.08, 0.08), 0, 1)
    found = compare(Verdicts(worse, THRESHOLD), Verdicts(probability, THRESHOLD), labels, groups)["auc"]
    assert found.difference == pytest.approx(found.first - found.second)
    assert found.low < found.difference < found.high < 0
    ours = with_intervals(worse, labels, groups, THRESHOLD).intervals["auc"]
    theirs = with_intervals(probability, labels, groups, THRESHOLD).intervals["auc"]
    assert ours[1] > theirs[0]


@pytest.mark.parametrize(
    ("probability", "labels", "groups", "message"),
    [
        ([], [], [], "one score and one label"),
        ([0.5], [0, 1], ["a"], "one score and one label"),
        ([0.5, np.nan], [0, 1], ["a", "b"], "outside 0 to 1"),
        ([0.5, 1.5], [0, 1], ["a", "b"], "outside 0 to 1"),
        ([0.5, 0.6], [0, 2], ["a", "b"], "labels other than 0 and 1"),
        ([0.5, 0.6], [0, 1], ["a"], "1 groups for 2 slices"),
    ],
)
def test_unmeasurable_input_is_refused(probability, labels, groups, message):
    with pytest.raises(ValueError, match=message):
        with_intervals(probability, labels, groups, 0.5)


def test_calibration_error_has_no_interval_and_no_verdict_on_its_difference():
    """Of resamples that repeat groups it is larger: their interval lay above the value, and never reached 0."""
    rng = np.random.default_rng(2)
    labels, groups = np.repeat(np.arange(40) % 2, 10), [f"p{number // 10}" for number in range(400)]
    sharp, blunt = (
        special.expit(rng.normal(mean * (2 * labels - 1), np.sqrt(2 * mean))) for mean in (6, 0.5)
    )  # both calibrated exactly: the logit is the logarithm of the likelihood ratio
    found = with_intervals(sharp, labels, groups, 0.5, resamples=50)
    assert found.ece is not None
    assert found.intervals["ece"] is None
    pair = compare(Verdicts(sharp, 0.5), Verdicts(blunt, 0.5), labels, groups, resamples=50)["ece"]
    assert pair.difference == pytest.approx(pair.first - pair.second)
    assert (pair.low, pair.high, pair.p_lower) == (None, None, None)


def sized(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the numbers of slices of 40 patients."""
    if kind == "equal":
        return np.full(40, 8)
    if kind == "lognormal":
        return np.maximum(1, np.round(rng.lognormal(1.4, 1.5, 40))).astype(int)
    return np.where(rng.random(40) < 0.8, 2, 60)


@pytest.mark.parametrize("kind", ["equal", "lognormal", "pictures and volumes"])
def test_lower_end_is_not_above_the_truth_if_patients_have_unequal_numbers_of_slices(kind):
    """With the plain number of groups, it was above the truth in 15 % (lognormal) and 26.5 % of draws."""
    rng, above = np.random.default_rng(11), 0
    for seed in range(80):
        sizes, missed = sized(kind, rng), rng.random(40) < 0.15
        labels = np.repeat([1, 0], [sizes.sum(), 40])
        probability = np.concatenate([np.repeat(np.where(missed, 0.3, 0.9), sizes), np.full(40, 0.1)])
        groups = [f"ill{number}" for number in np.repeat(np.arange(40), sizes)] + [f"well{n}" for n in range(40)]
        found = with_intervals(probability, labels, groups, 0.5, seed=seed, resamples=200)
        above += found.intervals["recall"][0] > 0.85
    assert above <= 2


def test_groups_of_unequal_size_count_like_fewer_groups_of_equal_size():
    labels, groups = [1] * 30 + [0] * 4, ["a"] * 10 + ["b"] * 20 + ["c", "d", "e", "f"]
    found = with_intervals(np.where(np.array(labels) == 1, 0.9, 0.1), labels, groups, 0.5)
    assert found.class_groups == {"COVID": 2, "non-COVID": 4}
    assert found.effective_groups == {"COVID": pytest.approx(30**2 / (10**2 + 20**2)), "non-COVID": 4}


def test_largest_group_of_each_class_is_stated_with_the_groups_that_it_joins():
    labels, groups = [1] * 30 + [0] * 4, ["a"] * 10 + ["b"] * 20 + ["c", "d", "e", "f"]
    joined = dict(zip("abcdef", "abccef", strict=True))
    found = with_intervals(np.where(np.array(labels) == 1, 0.9, 0.1), labels, groups, 0.5, unit_of=joined)
    assert found.largest_groups == {
        "COVID": LargestGroup(share=20 / 30, joined=1),
        "non-COVID": LargestGroup(share=0.5, joined=2),
    }
