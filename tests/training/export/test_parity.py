"""How int8 is made and judged: which slices calibrate it, which candidate is kept, and what is too far."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.slices import Labelled
from training.demo.model import heat_in_lesions
from training.evaluation.calibrate import meets_rule
from training.export.parity import Calibration, EngineComparison, calibrate, compare
from training.export.quantise import draw_calibration
from worker.engines.interface import Scores

CALIBRATION = Calibration(1.0, 0.5, None)


def scores(logit: Any) -> Scores:
    values = np.asarray(logit, np.float32)
    return Scores(values, np.zeros((len(values), 7, 7), np.float32))


def test_calibration_slices_are_random_and_even_over_classes_and_groups() -> None:
    labels = np.array([1] * 1000 + [0] * 100, np.uint8)
    groups = ["large"] * 970 + [f"small {n}" for n in range(30)] + [f"healthy {n % 10}" for n in range(100)]
    pixels = np.arange(1100, dtype=np.uint16).view(np.uint8).reshape(1100, 1, 2)
    drawn = draw_calibration(Labelled(pixels, labels, groups), seed=1)
    rows = drawn.reshape(-1, 2).copy().view(np.uint16)[:, 0].tolist()
    assert len(set(rows)) == 64
    of_class = Counter(int(labels[row]) for row in rows)
    assert min(of_class.values()) >= 20, "the rare class is drawn as often as the other"
    assert Counter(groups[row] for row in rows)["large"] <= 10, "a large group counts as one"
    assert sorted(rows) != rows
    assert not np.array_equal(draw_calibration(Labelled(pixels, labels, groups), seed=2), drawn)


def test_quantisation_takes_extremes_and_prevents_overflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nncf
    import openvino as ov
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet
    from openvino import opset13 as ops

    from training.export.quantise import candidates

    slices = ops.parameter([1, 8, 8, 1], np.uint8, name="slices")
    ov.save_model(ov.Model([ops.convert(slices, "f32")], [slices]), str(tmp_path / "model.xml"))
    calls: list[dict[str, Any]] = []

    def quantize(model: Any, _: Any, **options: Any) -> Any:
        calls.append(options)
        return model

    monkeypatch.setattr(nncf, "quantize", quantize)
    made = dict(candidates(tmp_path / "model.xml", tmp_path, np.zeros((3, 8, 8), np.uint8), lambda: None))
    assert len(made) == len(calls) == 2
    assert {call["fast_bias_correction"] for call in calls} == {True, False}
    for call in calls:
        advanced = call["advanced_parameters"]
        assert advanced.overflow_fix == nncf.OverflowFix.ENABLE
        assert advanced.activations_range_estimator_params == RangeEstimatorParametersSet.MINMAX
        assert call["subset_size"] == 3


@pytest.mark.parametrize(
    ("logit", "expected"),
    [
        ([-1, -1, 1, 1], (0, 0)),
        ([1, -1, 1, 1], (1, 0)),
        ([-1, -1, 1, -1], (0, 1)),
        ([1, -1, 1, -1], (1, 1)),
    ],
)
def test_verdicts_that_change_are_counted_in_each_direction(logit: list[int], expected: tuple[int, int]) -> None:
    labels = np.array([0, 0, 1, 1])
    found = compare(scores(logit), scores([-1, -1, 1, 1]), labels, CALIBRATION, CALIBRATION)
    assert found is not None
    assert (found.to_covid, found.to_non_covid) == expected


def comparison(**changed: Any) -> EngineComparison:
    exact = {"slices": 1000, "to_covid": 0, "to_non_covid": 0, "p99_difference": 0.0, "largest_difference": 0.0}
    return EngineComparison(**{**exact, "slope": 1.0, "accuracy_change": 0.0, "auc_change": 0.0, **changed})


@pytest.mark.parametrize(
    ("changed", "passes"),
    [
        ({}, True),
        ({"to_covid": 5, "to_non_covid": 5}, True),
        ({"to_covid": 6}, False),
        ({"to_non_covid": 6}, False),
        ({"to_covid": 6, "to_non_covid": 6, "accuracy_change": 0.0}, False),
        ({"auc_change": -0.006}, False),
        ({"auc_change": 0.006}, False),
        ({"slices": 20, "to_covid": 1}, True),
        ({"slices": 20, "to_covid": 2}, False),
    ],
)
def test_few_changes_in_each_direction_pass(changed: dict[str, Any], passes: bool) -> None:
    assert comparison(**changed).passes is passes


def test_candidate_with_fewer_flips_then_smaller_differences_is_nearer() -> None:
    flips, far, near = comparison(to_covid=1), comparison(p99_difference=0.2), comparison(p99_difference=0.1)
    assert sorted([flips, far, near], key=lambda each: each.order) == [near, far, flips]


def test_scores_that_are_not_finite_are_not_compared() -> None:
    assert compare(scores([np.nan, 1]), scores([-1, 1]), np.array([0, 1]), CALIBRATION, CALIBRATION) is None


def test_float32_threshold_is_kept_if_it_does_as_well() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1], np.uint8)
    data = Labelled(np.zeros((6, 1, 1), np.uint8), labels, list("abcdef"))
    logit = [-3, -2, -1, 1, 2, 3]
    assert calibrate(scores(logit), data, "youden", like=Calibration(1.0, 0.5, None)).threshold == 0.5
    assert calibrate(scores(logit), data, "youden", like=Calibration(1.0, 0.99, None)).threshold != 0.99


def test_engine_is_calibrated_only_as_far_as_groups_agree() -> None:
    labels = np.repeat(np.array([0, 1], np.uint8), 30)
    answers = scores(np.where(labels == 1, 6, 2) + np.random.default_rng(3).normal(0, 3, 60))

    def calibrated(groups: list[str]) -> Calibration:
        return calibrate(answers, Labelled(np.zeros((60, 1, 1), np.uint8), labels, groups), "youden-1se", plain=1.25)

    one_of_each_class = calibrated([f"{label}" for label in labels])
    assert (one_of_each_class.temperature, one_of_each_class.threshold) == (1.25, 0.5)
    many = calibrated([str(n) for n in range(60)])
    assert many.temperature > 1.5
    assert many.threshold > 0.6


def test_threshold_meets_a_floor_of_sensitivity_only_from_there_on() -> None:
    chances, labels = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0, 1, 0, 1])
    assert meets_rule(chances, labels, "sensitivity>=1.0", 0.35, 0.3)
    assert not meets_rule(chances, labels, "sensitivity>=1.0", 0.5, 0.3)


def test_heat_is_measured_inside_the_lesions() -> None:
    lesions = np.zeros((2, 224, 224), bool)
    lesions[0, 96:128, 96:128] = True  # cell (3, 3); the second slice shows none
    inside, outside = np.zeros((2, 7, 7), np.float32), np.zeros((2, 7, 7), np.float32)
    inside[:, 3, 3], outside[:, 0, 0] = 1, 1
    good, bad = heat_in_lesions(inside, lesions), heat_in_lesions(outside, lesions)
    assert good["share"] == pytest.approx(good["at_best"])
    assert good["share"] > 0.2
    assert good["peak_inside"] == 1
    assert (bad["share"], bad["peak_inside"]) == (0, 0)
    assert heat_in_lesions(np.zeros((2, 7, 7), np.float32), lesions)["share"] == 0
