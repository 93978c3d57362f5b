"""Tuning of a rule of findings: nested, by group, the same for the same seed, and refused where it cannot be."""

import numpy as np
import pytest
from numpy.typing import NDArray

from db.findings.rules import UnknownRule
from db.models.documents import FindingRule
from training.evaluation.group_level import ScoredGroups, measure_groups
from training.evaluation.tune_findings import CannotTune, candidates, tune


def one_ill_slice(groups: int = 60, slices: int = 40, ill: int = 1, seed: int = 1) -> ScoredGroups:
    """Groups of which every second has one slice with a high score, which the mean of ten hardly shows."""
    rng = np.random.default_rng(seed)
    labels = np.arange(groups) % 2
    probabilities = [rng.uniform(0.0, 0.5, slices) for _ in range(groups)]
    for group in np.flatnonzero(labels):
        probabilities[group][:ill] = rng.uniform(0.55, 0.9, ill)
    return ScoredGroups([f"g{i:03d}" for i in range(groups)], labels.astype(np.uint8), [[one] for one in probabilities])


def tuned(groups: ScoredGroups, seed: int = 7, units: list[int] | None = None, *names: str) -> FindingRule:
    facts = {"dataset": "site/1", "dataset_hash": "ab", "engine": "fake", "threshold": 0.5}
    return tune(groups, units or range(len(groups.names)), candidates(names), seed=seed, **facts)


def test_it_finds_the_rule_that_parts_the_groups_and_states_an_honest_estimate() -> None:
    rule = tuned(one_ill_slice())
    assert rule.tuned is not None
    assert (rule.rule == "max") or (rule.k or 99) <= 5
    assert rule.tuned.held_out["accuracy"].value > 0.95
    assert rule.tuned.by_default["recall"].value < 0.5  # the mean of the ten highest does not reach the threshold
    assert len(rule.tuned.chosen) == 5
    assert rule.tuned.groups == {"COVID": 30, "non-COVID": 30}


def test_rate_without_such_a_verdict_is_left_out() -> None:
    groups = one_ill_slice()
    high = [[np.minimum(own + 0.5, 1) for own in series] for series in groups.probabilities]
    rule = tuned(ScoredGroups(groups.names, groups.labels, high))
    assert rule.tuned is not None
    assert (rule.tuned.by_default["precision"].value, rule.tuned.by_default["recall"].value) == (0.5, 1.0)
    assert rule.tuned.by_default.keys() == rule.tuned.held_out.keys() - {"negative_precision"}


def test_the_estimate_on_noise_is_chance_although_the_best_candidate_looks_better() -> None:
    rng = np.random.default_rng(0)
    noise = [
        ScoredGroups(
            [f"{i:02d}" for i in range(40)], (np.arange(40) % 2).astype(np.uint8), [[p] for p in rng.random((40, 30))]
        )
        for _ in range(12)
    ]
    rules = [tuned(groups) for groups in noise]
    on_itself = [measure_groups(groups, rule) for groups, rule in zip(noise, rules, strict=True)]
    honest = np.mean([rule.tuned.held_out["accuracy"].value for rule in rules if rule.tuned])
    flattered = np.mean([metrics.accuracy for metrics in on_itself if metrics.accuracy])
    assert abs(honest - 0.5) < 0.06
    assert flattered > honest + 0.08


def test_a_seed_gives_one_result_and_the_order_of_slices_does_not_matter() -> None:
    groups = one_ill_slice()
    rng = np.random.default_rng(3)
    shuffled = ScoredGroups(groups.names, groups.labels, [[rng.permutation(p)] for (p,) in groups.probabilities])
    first, again, other = tuned(groups), tuned(shuffled), tuned(groups, 8)
    assert first.tuned is not None
    assert other.tuned is not None
    assert first.model_dump(exclude={"tuned": {"created_at"}}) == again.model_dump(exclude={"tuned": {"created_at"}})
    assert first.tuned.chosen != other.tuned.chosen


def test_groups_with_slices_in_common_count_as_one() -> None:
    groups = one_ill_slice()
    with pytest.raises(CannotTune, match="too few"):
        tuned(groups, 7, [number // 10 for number in range(60)])


def test_joined_group_with_both_classes_counts_once_among_all_groups() -> None:
    rule = tuned(one_ill_slice(), 7, [number // 2 for number in range(60)])
    assert rule.tuned is not None
    assert rule.tuned.groups == {"COVID": 30, "non-COVID": 30}
    assert (rule.tuned.all_groups, rule.tuned.named_groups) == (30, 60)


@pytest.mark.parametrize(
    ("labels", "why"), [([1] * 60, "non-COVID"), ([0] * 60, "COVID"), ([1] * 55 + [0] * 5, "5 of non-COVID")]
)
def test_one_class_or_too_few_groups_are_refused(labels: list[int], why: str) -> None:
    groups = one_ill_slice()
    with pytest.raises(CannotTune, match=why):
        tuned(ScoredGroups(groups.names, np.array(labels, np.uint8), groups.probabilities))


def test_only_the_rules_that_were_named_are_tried() -> None:
    assert {rule.rule for rule in candidates(["mean", "max", "mean"])} == {"mean", "max"}
    assert len(candidates(["mean", "max", "mean"])) == 2
    assert tuned(one_ill_slice(), 7, None, "mean").rule == "mean"
    with pytest.raises(UnknownRule):
        candidates(["median"])


def test_slices_are_gathered_by_group_and_those_without_lung_left_out() -> None:
    pixels = with_lung(4)
    pixels[[1, 3]] = 200
    groups = ScoredGroups.of([0.2, 0.9, 0.4, 0.7], [0, 1, 0, 0], ["b", "b", "a", "c"], pixels, [None] * 4, [None] * 4)
    assert (groups.names, groups.left_out) == (["a", "b"], 1)
    assert [list(one) for (one,) in groups.probabilities] == [[0.4], [0.2]]
    assert list(groups.labels) == [0, 1]  # a group is COVID if any of its slices is


def with_lung(count: int) -> NDArray[np.uint8]:
    """Slices with enough lung, uint8[count, 224, 224]."""
    lung = np.full((224, 224), 40, np.uint8)
    lung[20:200, 20:200], lung[60:160, 60:160] = 220, 40
    return np.stack([lung] * count)


MEAN = FindingRule(rule="mean", version=2, threshold=0.5)


def test_group_gets_the_highest_score_of_its_series() -> None:
    chances, series = [0.9, 0.1, 0.2, 0.6, 0.8], ["x", "x", "y", "y", None]
    groups = ScoredGroups.of(chances, [1] * 5, ["a"] * 4 + ["b"], with_lung(5), series, [None] * 5)
    assert groups.scores(MEAN) == pytest.approx([0.5, 0.8])
    again = ScoredGroups.of(
        chances * 2, [1] * 10, (["a"] * 4 + ["b"]) * 2, with_lung(10), series + list("pprrs"), [None] * 10
    )
    assert list(again.scores(MEAN)) == list(groups.scores(MEAN))


def test_group_whose_series_are_out_of_distribution_gets_no_verdict() -> None:
    chances, names, series = [0.9, 0.9, 0.9, 0.1, 0.2, 0.7], list("aaabbb"), list("xxyxyy")
    ood = np.array([True, False, True, False, True, True])
    groups = ScoredGroups.of(chances, [1, 1, 1, 0, 0, 0], names, with_lung(6), series, [None] * 6, ood)
    assert (groups.names, groups.left_out, groups.no_verdict) == (["b"], 0, 1)
    assert [list(one) for one in groups.probabilities[0]] == [[0.1]], "the series that is out of distribution has none"
    metrics = measure_groups(groups, MEAN)
    assert (metrics.n, metrics.no_verdict, metrics.recall) == (1, 1, None)


def test_groups_are_stated_although_none_has_a_verdict() -> None:
    groups = ScoredGroups.of([0.9, 0.1], [1, 0], ["a", "b"], with_lung(2), [None] * 2, [None] * 2, np.ones(2, np.bool_))
    metrics = measure_groups(groups, MEAN)
    assert (metrics.n, metrics.groups, metrics.no_verdict, metrics.left_out) == (0, 0, 2, 0)
    assert (metrics.accuracy, metrics.rule) == (None, MEAN)
    with pytest.raises(CannotTune, match="2 groups without a verdict"):
        tuned(groups)


@pytest.mark.parametrize("kept", [0, 3])
def test_refusal_to_tune_names_the_groups_that_do_not_count(kept: int) -> None:
    names, labels = [f"{number:02d}" for number in range(40)], [1] * 20 + [0] * 20
    ood = np.array([label == 1 and number >= kept for number, label in enumerate(labels)])
    groups = ScoredGroups.of([0.5] * 40, labels, names, with_lung(40), [None] * 40, [None] * 40, ood)
    with pytest.raises(CannotTune, match=f"{20 - kept} groups without a verdict") as refusal:
        tuned(groups)
    assert "no group of the dataset" not in str(refusal.value)


def test_score_of_a_group_is_no_probability() -> None:
    metrics = measure_groups(one_ill_slice(), MEAN)
    assert (metrics.ece, metrics.brier) == (None, None)
    assert not {"ece", "brier"} & metrics.intervals.keys()


@pytest.mark.parametrize(
    ("series", "files", "score"),
    [
        ("xxx", [("f", 0), ("g", 0), ("g", 0)], 0.6),
        ("xxx", [("f", 0), ("g", 0), ("g", 1)], 0.5),
        ("xxx", [("f", 0), None, None], 0.5),
        ("xxy", [("f", 0), ("g", 0), ("g", 0)], 0.6),
    ],
    ids=["copy", "another frame", "files not known", "another series"],
)
def test_group_counts_copies_of_a_slice_once_in_each_series(
    series: str, files: list[tuple[str, int] | None], score: float
) -> None:
    groups = ScoredGroups.of([0.9, 0.3, 0.3], [0, 0, 1], ["a"] * 3, with_lung(3), list(series), files)
    assert groups.scores(MEAN) == pytest.approx([score])
    assert list(groups.labels) == [1]
