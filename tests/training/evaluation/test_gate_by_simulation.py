"""How often the gate errs, on drawn patients: a candidate that is worse must hardly ever pass, an equal one hardly ever
be refused."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import norm

from db.evaluation.rule import CHANCE, NOT_SHOWN, PASSED, REFUSED, Floors, Seen, rule
from training.evaluation.metrics import Verdicts, compare, with_intervals

GROUPS, SLICES = 40, 10  # of each class, and of each group
DRAWS = 200
SHARED, OWN = (1.0, 0.7), (0.5, 0.5)  # standard deviations of what both models see, and each alone: by group, by slice


def draw_scores(
    rng: np.random.Generator, sensitivities: tuple[float, float], specificities: tuple[float, float]
) -> tuple[list[Verdicts], np.ndarray, list[str]]:
    """Draw a test part, and what two models of these true sensitivities and specificities say of it."""
    labels = np.repeat([1, 0], GROUPS * SLICES)
    group = np.repeat(np.arange(2 * GROUPS), SLICES)

    def effect(deviations: tuple[float, float]) -> np.ndarray:
        by_group, by_slice = deviations
        return rng.normal(0, by_group, 2 * GROUPS)[group] + rng.normal(0, by_slice, len(labels))

    shared, spread = effect(SHARED), np.hypot(*SHARED) ** 2 + np.hypot(*OWN) ** 2
    models = []
    for sensitivity, specificity in zip(sensitivities, specificities, strict=True):
        mean = np.where(labels == 1, norm.ppf(sensitivity), -norm.ppf(specificity)) * np.sqrt(spread)
        models.append(Verdicts(norm.cdf(mean + shared + effect(OWN)), 0.5))
    return models, labels, [str(number) for number in group]


def verdicts(
    sensitivities: tuple[float, float], specificities: tuple[float, float], draws: int = DRAWS
) -> Counter[str]:
    """Count the verdicts on a candidate, the first of each pair, beside a champion."""
    found: Counter[str] = Counter()
    for seed in range(draws):
        (candidate, champion), labels, groups = draw_scores(np.random.default_rng(seed), sensitivities, specificities)
        metrics = with_intervals(candidate.probability, labels, groups, candidate.threshold, resamples=2)
        pairs = compare(candidate, champion, labels, groups, resamples=300)
        found[rule(metrics, pairs, Floors(), 0.02, Seen()).verdict] += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("specificity", [0.92, 0.97])
def test_candidate_five_points_worse_passes_in_under_5_percent(specificity: float) -> None:
    found = verdicts((0.92, 0.97), (specificity, 0.97))
    assert found[PASSED] < 0.05 * DRAWS, found


@pytest.mark.slow
@pytest.mark.parametrize("quality", [0.95, 0.97])
def test_equal_candidate_is_not_refused_more_often_than_stated(quality: float) -> None:
    found = verdicts((quality, quality), (quality, quality))
    assert found[REFUSED] <= 2 * CHANCE * DRAWS, f"{found}: at the stated rate, chance gives more in 2 of 100 runs"
    assert found.keys() <= {PASSED, NOT_SHOWN, REFUSED}


@pytest.mark.parametrize(
    ("sensitivity", "specificity"),
    [pytest.param(0.9999, 0.0001, id="everything is COVID"), pytest.param(0.3, 0.3, id="worse than chance")],
)
def test_useless_candidate_is_refused_beside_a_useless_champion(sensitivity: float, specificity: float) -> None:
    found = verdicts((sensitivity, sensitivity), (specificity, specificity), draws=5)
    assert found == {REFUSED: 5}


@pytest.mark.parametrize(
    ("groups", "wrong", "verdict"),
    [
        pytest.param(20, 0, NOT_SHOWN, id="few groups"),
        pytest.param(20, 1, NOT_SHOWN, id="few groups, one slice differs"),
        pytest.param(120, 0, PASSED, id="many groups"),
    ],
)
def test_perfect_equal_candidate_passes_only_on_many_groups(groups: int, wrong: int, verdict: str) -> None:
    labels = np.repeat([1, 0], groups * SLICES)
    names = [str(number) for number in np.repeat(np.arange(2 * groups), SLICES)]
    scores = np.where(labels == 1, 0.9, 0.1)
    candidate = Verdicts(np.concatenate([np.full(wrong, 0.4), scores[wrong:]]), 0.5)
    metrics = with_intervals(candidate.probability, labels, names, 0.5, resamples=2)
    pairs = compare(candidate, Verdicts(scores, 0.5), labels, names, resamples=300)
    assert rule(metrics, pairs, Floors(), 0.02, Seen()).verdict == verdict
