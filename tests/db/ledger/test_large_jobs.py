"""The end of jobs that are too large for one transaction: the sweeper ends them in steps."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import errors
from sqlalchemy import event, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db import database as base
from db.clock import from_now
from db.database import read_scope, session_scope
from db.findings.ribbons import ribbons
from db.findings.views import iter_findings
from db.ledger import completion, jobs, results, tally
from db.ledger.job_view import job_view
from db.ledger.predictions import PredictedSlice
from db.ledger.recording import ReadSlice
from db.ledger.results import iter_results
from db.models import Finding, Job, JobState, Outcome, Prediction, Series, Slice, User
from db.models.documents import JobTally
from db.series import batches
from db.settings import Settings
from tests.builders.series import predict_all, read_upload, submit_uploads
from worker import sweep

pytestmark = pytest.mark.usefixtures("champion")
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count a job of 4 slices as large, and settle it in batches of 2 slices."""
    monkeypatch.setattr(completion, "LARGE", 3)
    monkeypatch.setattr(completion, "SLICES_A_BATCH", 2)
    monkeypatch.setattr(batches, "SLICES_A_BATCH", 2)


def slices(prefix: str = "") -> list[ReadSlice]:
    """Three series of three slices, two of them of one patient. Two slices share their UID but not their bytes."""
    rows = [
        ReadSlice(
            0, 0, f"{series}/{number}", Outcome.OPEN, sha256=f"{prefix}{series}{number}", lung_fraction=0.2,
            pixels_sha256=f"{prefix}{series}{number}", patient=series[0], study_uid=series, series_uid=series,
            series_label=series, instance_number=3 - number, sop_uid=f"{series}.{number}",
        )
        for series in ("a1", "a2", "b1")
        for number in range(3)
    ]  # fmt: skip
    return [*rows[:-1], replace(rows[-1], sop_uid="a1.0")]


def scored(slice_id: int, name: str) -> PredictedSlice:
    chance = int(name[-1]) / 4 + 0.1
    return PredictedSlice(slice_id, chance, chance, chance > 0.5, bytes(98))


def run_job(owner: User, rows: Sequence[ReadSlice]) -> Job:
    job = submit_uploads(owner, 1)
    read_upload(rows, 5, None)
    predict_all(scored)
    return job


def state_of(job: Job) -> str:
    with read_scope() as s:
        return s.get_one(Job, job.id).state


def all_of(job: Job) -> Iterator[dict[str, Any]]:
    """What people see of a job, without the ids of its rows."""
    ids = {"finding_id", "slice_id", "study_id", "series_id", "sha256"}
    with read_scope() as s:
        ended = s.get_one(Job, job.id)
    yield from (row.model_dump(exclude=ids) for row in (*iter_findings(ended), *iter_results(ended)))
    with read_scope() as s:
        yield {"state": ended.state, "tally": ended.tally, "notes": s.scalars(select(Series.notes)).all()[-3:]}


def test_large_job_ends_as_a_small_one(ann: User, monkeypatch: pytest.MonkeyPatch, request: Any) -> None:
    small = run_job(ann, slices())
    assert state_of(small) == JobState.FINISHED
    request.getfixturevalue("small_limits")
    large = run_job(ann, slices("other "))
    assert state_of(large) == JobState.RUNNING
    with read_scope() as s:
        assert s.get_one(Job, large.id).unpacked_at is None
    sweep.sweep_ledger()
    assert list(all_of(large)) == list(all_of(small))
    with read_scope() as s:
        rejected = s.scalars(select(Slice.id).where(Slice.job_id == large.id, Slice.reason == "uid_conflict")).all()
        assert len(rejected) == 2
        assert s.scalars(select(Prediction).where(Prediction.slice_id.in_(rejected))).all() == []


@pytest.mark.usefixtures("small_limits")
def test_large_job_is_settled_before_its_slices_are_predicted(ann: User) -> None:
    job = submit_uploads(ann, 1)
    read_upload(slices(), 5, None)
    sweep.sweep_ledger()
    with read_scope() as s:
        assert s.get_one(Job, job.id).unpacked_at is not None
        assert None not in s.scalars(select(Slice.series_rank)).all()
    assert state_of(job) == JobState.RUNNING
    predict_all(scored)
    sweep.sweep_ledger()
    assert state_of(job) == JobState.FINISHED


@pytest.mark.usefixtures("small_limits")
def test_cancelled_large_job_ends_with_all_its_slices_cancelled(ann: User) -> None:
    job = submit_uploads(ann, 1)
    read_upload(slices()[:6], 5, None)
    with session_scope() as s:
        assert jobs.cancel_job(s, s.get_one(Job, job.id))
        assert set(s.scalars(select(Slice.state))) == {Outcome.OPEN}, "this would take too long for a request"
    sweep.sweep_ledger()
    assert state_of(job) == JobState.CANCELLED
    with read_scope() as s:
        assert set(s.scalars(select(Slice.state))) == {Outcome.CANCELLED}


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(
    "change", [{"retried_at": from_now()}, {"state": JobState.FINISHED}, {"unpacked_at": from_now()}],
    ids=["retried", "ended", "settled"],
)  # fmt: skip
def test_end_stops_if_the_job_changes_between_two_steps(
    change: dict[str, Any], ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(ann, slices())

    def settling(*_: object) -> Iterator[Callable[[Session], None]]:
        yield lambda s: s.execute(update(Job).values(**change)) and None
        yield lambda s: pytest.fail("the job has changed")

    monkeypatch.setattr(completion, "settling", settling)
    sweep.finish_jobs()
    with read_scope() as s:
        assert s.scalars(select(Finding)).all() == []


def test_large_open_job_is_counted_again_only_after_as_long_as_it_took(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit_uploads(ann, 1)
    read_upload(slices(), 5, None)
    now, counted, count = [100.0], [0], tally.count_tallies

    def slowly(s: Session, job_ids: Collection[str]) -> dict[str, JobTally]:
        if job_ids:
            counted[0] += 1
            now[0] += 2.0
        return count(s, job_ids)

    monkeypatch.setattr(tally, "count_tallies", slowly)
    monkeypatch.setattr(tally, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def view() -> int:
        with read_scope() as s:
            job_view(s, s.get_one(Job, job.id))
        return counted[0]

    assert [view(), view()] == [1, 2], "a small job is counted each time"
    monkeypatch.setattr(tally, "KEPT_FROM", 9)
    assert [view(), view(), view()] == [3, 3, 3]
    now[0] += 1.9
    assert view() == 3
    now[0] += 0.2
    assert [view(), view()] == [4, 4]
    predict_all(scored)
    assert view() == 4
    assert job.id not in tally._kept, "an ended job has its own sums"


@on_sqlite
def test_chosen_slices_are_looked_up_one_by_one(ann: User) -> None:
    """SQLite has no statistics, and would go through all slices of the job."""
    job = run_job(ann, slices())
    with read_scope() as s:
        job = s.get_one(Job, job.id)
        ids, series = s.scalars(select(Slice.id)).all(), s.scalars(select(Series.id)).all()
        plans: list[str] = []

        def explain(connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            plan = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", values)
            plans.extend(row[3] for row in plan.fetchall())

        event.listen(base.get_engine(), "before_cursor_execute", explain)
        assert len(list(results._results(job, ids))) == 9
        assert len(ribbons(s, job, series)) == 3
        event.remove(base.get_engine(), "before_cursor_execute", explain)
    assert any("SEARCH slice" in plan for plan in plans)
    assert not [plan for plan in plans if "slice" in plan and "(job_id=?)" in plan]


@on_postgres
@pytest.mark.usefixtures("small_limits")
def test_no_statement_of_the_end_is_too_slow(ann: User, monkeypatch: pytest.MonkeyPatch, database: Settings) -> None:
    job = run_job(ann, slices())
    monkeypatch.setattr(base, "PG_OPTIONS", "-c statement_timeout=100 -c idle_in_transaction_session_timeout=200")
    base.use(database)
    with pytest.raises(OperationalError) as ended, session_scope() as s:
        s.execute(text("SELECT pg_sleep(1)"))
    assert isinstance(ended.value.orig, errors.QueryCanceled)
    assert base.is_too_slow(ended.value)
    assert not base.is_away(ended.value)
    settling = completion.settling

    def slow(*args: Any) -> Iterator[Callable[[Session], None]]:
        yield lambda s: s.execute(text("SELECT pg_sleep(0.3)")) and None
        yield lambda _: time.sleep(0.4)
        yield from settling(*args)

    monkeypatch.setattr(completion, "settling", slow)
    sweep.finish_jobs()
    assert state_of(job) == JobState.FINISHED


@pytest.mark.usefixtures("small_limits")
def test_job_that_cannot_be_ended_does_not_keep_others_from_their_end(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs_of_ann = [run_job(ann, slices()) for _ in range(2)]
    with session_scope() as s:
        s.execute(update(Job).values(unpacked_at=from_now()))
    read_findings = completion.read_findings

    def broken(s: Session, job: Job) -> Any:
        if job.id == min(one.id for one in jobs_of_ann):
            raise ValueError("broken")
        return read_findings(s, job)

    monkeypatch.setattr(completion, "read_findings", broken)
    sweep.finish_jobs()
    assert sorted(state_of(job) for job in jobs_of_ann) == [JobState.FINISHED, JobState.RUNNING]


@on_postgres
def test_no_statement_of_a_retry_is_too_slow(ann: User, monkeypatch: pytest.MonkeyPatch, database: Settings) -> None:
    job = run_job(ann, slices())
    with session_scope() as s:
        first = s.scalar(select(Slice.id).order_by(Slice.id).limit(1))
        s.execute(update(Slice).where(Slice.id == first).values(state=Outcome.QUARANTINED, reason="engine_error"))
    monkeypatch.setattr(base, "PG_OPTIONS", "-c statement_timeout=100")
    base.use(database)
    monkeypatch.setattr(jobs, "remove_findings", lambda s, _: s.execute(text("SELECT pg_sleep(0.3)")))
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 1
