"""The rules of findings: scores, thresholds, and when they give no verdict."""

import numpy as np
import pytest
from pydantic import ValidationError

from db import COVID, NON_COVID
from db.findings.rules import (
    DEFAULT_K,
    RULES,
    Conclusion,
    Evidence,
    UnknownRule,
    conclude,
    default_rule,
    rule_named,
    score_of,
)
from db.models.documents import FindingRule

SLICES = np.array([0.1, 0.9, 0.2, 0.8, 0.3])


def rule(name: str, k: int | None = None, threshold: float = 0.5) -> FindingRule:
    return FindingRule(rule=name, version=2, k=k, threshold=threshold)


@pytest.mark.parametrize(
    ("name", "k", "score"),
    [
        ("top-k-mean", 2, 0.85),
        ("top-k-mean", 50, 0.46),  # fewer slices than k: the mean of all
        ("max", None, 0.9),
        ("mean", None, 0.46),
        ("noisy-or", None, 1 - 0.9 * 0.1 * 0.8 * 0.2 * 0.7),
    ],
)
def test_each_rule_gives_its_score(name: str, k: int | None, score: float) -> None:
    assert score_of(rule(name, k), SLICES) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_slices_changes_no_bit_of_a_score(name: str) -> None:
    rng = np.random.default_rng(5)
    slices = rng.random(997)
    scores = {score_of(rule(name, 31), rng.permutation(slices)) for _ in range(20)}
    assert len(scores) == 1


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certain_slices_give_a_certain_score(name: str, value: float) -> None:
    assert score_of(rule(name, 3), np.full(5, value)) == pytest.approx(value, abs=1e-9)


def test_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownRule):
        rule_named("median")
    for made_up in ({"rule": "median", "version": 2}, {"rule": "max", "version": 1}):
        with pytest.raises(ValidationError):
            FindingRule.of({**made_up, "threshold": 0.5})


def test_the_default_has_the_k_and_the_threshold_that_it_states() -> None:
    used = default_rule(0.4)
    assert (used.rule, used.version, used.k, used.threshold, used.tuned) == ("top-k-mean", 2, DEFAULT_K, 0.4, None)


def test_from_the_threshold_on_a_score_is_covid() -> None:
    used = rule("max", threshold=0.9)
    assert conclude(used, Evidence(SLICES)) == Conclusion(0.9, COVID)
    assert conclude(used, Evidence(SLICES[:1])) == Conclusion(0.1, NON_COVID)


def test_the_highest_score_of_the_series_counts() -> None:
    series = [Conclusion(0.2, NON_COVID), Conclusion(None, None, "no_lung"), Conclusion(0.6, COVID)]
    assert conclude(rule("max"), Evidence(SLICES), series) == Conclusion(0.6, COVID)


def test_abstains_with_the_first_reason_if_all_series_abstain() -> None:
    series = [Conclusion(None, None, reason) for reason in ("ood", "missing", "no_lung")]
    assert conclude(rule("max"), Evidence(SLICES), series) == Conclusion(None, None, "missing")


NONE = np.array([])
ABSTAINED = {
    "conflict of the study": (Evidence(SLICES, conflict="patient_conflict"), "patient_conflict"),
    "conflicting slices": (Evidence(SLICES, left_out={"uid_conflict": 2}), "uid_conflict"),
    "upload not unpacked": (Evidence(SLICES, upload_failed=True), "upload_failed"),
    "rejected slices": (Evidence(SLICES, left_out={"truncated": 1, "worker_lost": 1}), "missing"),
    "cancelled slices": (Evidence(SLICES, left_out={"cancelled": 2}), "missing"),
    "rejected and conflicting": (Evidence(SLICES, left_out={"truncated": 1, "uid_conflict": 1}), "missing"),
    "nothing predicted": (Evidence(NONE, left_out={"localizer": 3}), "nothing_predicted"),
    "no HU": (Evidence(SLICES, odd_hu=4, left_out={"little_lung": 1}), "odd_hu"),
    "no HU and no lung": (Evidence(NONE, odd_hu=3, left_out={"little_lung": 3}), "odd_hu"),
    "no lung": (Evidence(NONE, left_out={"little_lung": 3}), "no_lung"),
    "out of distribution": (Evidence(SLICES, ood=2), "ood"),
}


@pytest.mark.parametrize("case", ABSTAINED)
def test_abstains_with_a_reason_and_without_a_score(case: str) -> None:
    evidence, reason = ABSTAINED[case]
    assert conclude(rule("max"), evidence) == Conclusion(None, None, reason)


@pytest.mark.parametrize(
    "left_out",
    [{"truncated": 1}, {"uid_conflict": 1}, {"localizer": 40, "not_axial": 10}, {"little_lung": 100}, {"copy": 50}],
    ids=["few missing", "few in conflict", "set apart", "little lung", "copies"],
)
def test_what_is_set_apart_or_rare_keeps_no_verdict_back(left_out: dict[str, int]) -> None:
    assert conclude(rule("max"), Evidence(SLICES, ood=1, odd_hu=1, left_out=left_out)).verdict == COVID
