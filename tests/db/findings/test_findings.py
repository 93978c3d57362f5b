"""The findings of a job: written when it ends, the same for any order of arrival, and taken back by a retry."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select, update

from db.database import read_scope, session_scope
from db.findings.recording import write_findings
from db.findings.rules import DEFAULT_K
from db.ledger import jobs
from db.ledger.job_view import job_view
from db.ledger.predictions import PredictedSlice
from db.ledger.recording import ReadSlice
from db.models import Finding, Job, Level, ModelVersion, Outcome, Patient, Prediction, Series, Slice, Study, User
from db.models.documents import FindingRule, Rate, Tuning
from tests.builders.series import predict_all, read_upload, submit_uploads
from tests.builders.statements import recorded_statements

pytestmark = pytest.mark.usefixtures("champion")

ROWS_A_BATCH = 7


def slices(count: int, series: str = "1", study: str = "1", patient: str = "p", **values: Any) -> list[ReadSlice]:
    """Slices of one series; their names state what they are, and `probability_of` scores them by their name."""
    name = f"{study}/{series}"
    return [
        ReadSlice(
            0, 0, f"{name}/{i}.dcm", Outcome.OPEN, sha256=f"{name}/{i}", pixels_sha256=f"{name}/{i}", lung_fraction=0.2,
            patient=patient, study_uid=study, series_uid=series, series_label=f"series {series}", instance_number=i,
        )
        for i in range(count)
    ]  # fmt: skip


def rejected(reason: str, count: int, folder: str, **values: Any) -> list[ReadSlice]:
    return [ReadSlice(0, 0, f"{folder}/bad {reason} {i}", Outcome.REJECTED, reason, **values) for i in range(count)]


def probability_of(name: str) -> float:
    return random.Random(name).uniform(0, 1)


def run_job(owner: User, rows: Sequence[ReadSlice], *, error: str | None = None, ood: Iterable[str] = ()) -> Job:
    """Submit a job, read these rows in this order, and predict what is open."""
    job = submit_uploads(owner, 1)
    read_upload(rows, ROWS_A_BATCH, error)
    predict_all(lambda id_, name: scored_slice(id_, name, name in ood))
    return job


def scored_slice(slice_id: int, name: str, ood: bool) -> PredictedSlice:
    chance = probability_of(name)
    return PredictedSlice(slice_id, 0.0, chance, chance >= 0.5, bytes(98), 1.0, ood)


def findings(job: Job) -> list[Finding]:
    with read_scope() as s:
        return list(s.scalars(select(Finding).where(Finding.job_id == job.id).order_by(Finding.ordinal)))


def only(job: Job, level: Level = Level.PATIENT) -> Finding:
    (finding,) = [one for one in findings(job) if one.level == level]
    return finding


def told(job: Job) -> set[tuple[Any, ...]]:
    """What the findings of a job say, without ids and places, which depend on what came first."""
    with read_scope() as s:
        query = (
            select(Finding, Patient.is_known, Study.uid, Series.uid)
            .join(Patient, Patient.id == Finding.patient_id)
            .outerjoin(Study, Study.id == Finding.study_id)
            .outerjoin(Series, Series.id == Finding.series_id)
            .where(Finding.job_id == job.id)
        )
        return {
            (f.level, known, study, series, f.verdict, f.reason, f.score, f.used, f.ood, tuple(f.left_out.items()))
            for f, known, study, series in s.execute(query)
        }


def test_patient_comes_first_then_studies_with_their_series(ann: User) -> None:
    job = run_job(ann, [*slices(3), *slices(3, "2"), *slices(3, "3", "2"), *slices(3, "4", "3", "q")])
    levels = [one.level for one in findings(job)]
    assert levels == ["patient", "study", "series", "series", "study", "series", "patient", "study", "series"]
    assert [one.used for one in findings(job)] == [9, 6, 3, 3, 3, 3, 3, 3, 3]


def test_finding_states_its_rule_and_what_it_rests_on(ann: User, champion: ModelVersion) -> None:
    rows = [*slices(12), replace(slices(13)[12], lung_fraction=0.001)]
    job = run_job(ann, rows, ood=["1/1/3.dcm"])
    finding = only(job)
    scores = sorted((probability_of(row.name) for row in rows[:12]), reverse=True)[:DEFAULT_K]
    assert finding.score == pytest.approx(np.mean(scores), abs=1e-12)
    assert (finding.rule, finding.rule_version, finding.k) == ("top-k-mean", 1, DEFAULT_K)
    assert finding.threshold == champion.threshold
    assert (finding.used, finding.ood, finding.left_out) == (12, 1, {"little_lung": 1})
    assert (finding.low, finding.high) == (None, None)


def test_the_finding_is_the_same_for_any_order_of_arrival(ann: User) -> None:
    rows = [
        *slices(20),
        *slices(9, "2"),
        *slices(11, "3", "2"),
        *slices(8, "4", "3", "q"),
        *rejected("truncated", 2, "1/1"),
        *slices(3, "5", "4", ""),
    ]
    ood = [row.name for row in rows[:4]]
    first = told(run_job(ann, rows, ood=ood))
    assert len(first) == 12
    for seed in range(4):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert told(run_job(ann, shuffled, ood=ood)) == first


def test_the_rule_that_was_tuned_is_used_with_its_interval(ann: User, champion: ModelVersion) -> None:
    right = {"precision": Rate(value=0.9, low=0.8, high=0.95), "negative_precision": Rate(value=0.7, low=0.6, high=0.8)}
    tuning = Tuning(dataset="site/1", engine="fake", seed=7, groups={"COVID": 20, "non-COVID": 20}, held_out=right)
    rule = FindingRule(rule="max", version=1, threshold=0.01, tuned=tuning)
    with session_scope() as s:
        s.execute(update(ModelVersion).values(finding_rule=rule))
    finding = only(run_job(ann, slices(5)))
    assert (finding.rule, finding.verdict, finding.low, finding.high) == ("max", "COVID", 0.8, 0.95)


PEOPLE = [("b1", ""), ("", "m"), ("b2", "")]


@pytest.mark.parametrize("seed", range(3))
def test_patient_of_several_birth_dates_has_no_verdict(ann: User, seed: int) -> None:
    people = random.Random(seed).sample(PEOPLE, 3)
    rows = [
        replace(row, birth_date=born, sex=sex)
        for n, (born, sex) in enumerate(people)
        for row in slices(5, f"{n}", f"study {n}")
    ]
    job = run_job(ann, random.Random(seed).sample(rows, len(rows)))
    reasons = [(one.level, one.reason) for one in findings(job)]
    assert reasons == [("patient", "patient_unclear"), *[("study", None), ("series", None)] * 3]


@pytest.mark.parametrize("seed", range(3))
def test_study_of_several_sexes_has_no_verdict_and_its_series_have(ann: User, seed: int) -> None:
    rows = [replace(row, sex=sex) for sex in ("", "m", "f") for row in slices(3, sex or "none")]
    job = run_job(ann, random.Random(seed).sample(rows, len(rows)))
    reasons = [(one.level, one.reason) for one in findings(job)]
    assert reasons == [("patient", "patient_unclear"), ("study", "patient_unclear"), *[("series", None)] * 3]


def test_birth_date_that_some_files_leave_out_changes_no_verdict(ann: User) -> None:
    rows = [replace(row, birth_date=born) for born in ("", "b1") for row in slices(5, born or "none")]
    other = [replace(row, birth_date="b2") for row in slices(5, "3", "3", "q")]
    assert {one.reason for one in findings(run_job(ann, [*rows, *other]))} == {None}


@pytest.mark.parametrize(("fast", "threshold"), [(1, 0.5), (2, 0.3), (4, 0.3)])
def test_threshold_is_that_of_the_engine_of_most_predictions(ann: User, fast: int, threshold: float) -> None:
    with session_scope() as s:
        s.execute(update(ModelVersion).values(calibration={"a-fast": {"threshold": 0.3}}))
    rows = slices(fast + 2)
    submit_uploads(ann, 1)
    read_upload(rows[:2])
    predict_all(engine="keras-f32")  # the job below takes these two predictions from here
    job = submit_uploads(ann, 1)
    read_upload(rows)
    predict_all(engine="a-fast")
    assert only(job).threshold == threshold
    with read_scope() as s:
        assert job_view(s, s.get_one(Job, job.id)).thresholds == {"a-fast": 0.3, "keras-f32": 0.5}


def test_files_lost_in_the_folder_of_a_series_are_missing_from_it(ann: User) -> None:
    rows = [*slices(8), *slices(8, "2"), *rejected("truncated", 5, "1/1"), *rejected("format", 50, "1/2")]
    job = run_job(ann, rows)
    by_series = [(one.reason, one.left_out) for one in findings(job) if one.level == Level.SERIES]
    assert by_series == [("missing", {"truncated": 5}), (None, {})]
    assert only(job, Level.STUDY).left_out == {"truncated": 5}
    assert only(job).verdict is not None


def test_study_of_two_patients_gives_no_verdict(ann: User) -> None:
    job = run_job(ann, [*slices(5), *slices(5, patient="q"), *slices(5, "3", "2")])
    reasons = {one.study_id: one.reason for one in findings(job) if one.level == Level.STUDY}
    assert sorted(map(str, reasons.values())) == ["None", "patient_conflict"]


def test_upload_that_breaks_off_gives_no_verdict(ann: User) -> None:
    assert only(run_job(ann, slices(5), error="truncated_archive")).reason == "upload_failed"


def test_a_retry_takes_the_findings_back_until_the_job_ends_again(ann: User) -> None:
    job = run_job(ann, slices(30))
    before = told(job)
    with session_scope() as s:  # as if the workers of half of it had been lost
        half = list(s.scalars(select(Slice.id).where(Slice.job_id == job.id).limit(15)))
        s.execute(delete(Prediction).where(Prediction.slice_id.in_(half)))
        s.execute(update(Slice).where(Slice.id.in_(half)).values(state=Outcome.QUARANTINED, reason="worker_lost"))
        write_findings(s, s.get_one(Job, job.id))
    assert only(job).reason == "missing"
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 15
    assert findings(job) == []
    predict_all(lambda id_, name: scored_slice(id_, name, False))
    assert told(job) == before


def test_job_without_any_series_has_no_findings(ann: User) -> None:
    assert findings(run_job(ann, rejected("format", 3, "a"))) == []


def test_statements_do_not_grow_with_the_job(ann: User) -> None:
    numbers = []
    for count in (2, 6):
        rows = [row for number in range(count) for row in slices(4, f"s{number}", f"t{number}", f"p{number}")]
        job = run_job(ann, rows)
        with session_scope() as s, recorded_statements() as statements:
            write_findings(s, s.get_one(Job, job.id))
        numbers.append(len(statements))
    assert numbers[0] == numbers[1]
