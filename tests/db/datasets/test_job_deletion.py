"""Jobs are deleted on both databases: marked at once, removed in batches, and nothing of others goes with them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from sqlalchemy import event, func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.clock import from_now
from db.database import get_engine, read_scope, session_scope
from db.datasets import datasets, job_deletion
from db.datasets.deletion import NotDeletable
from db.datasets.reviews import set_review
from db.datasets.slices import DatasetError
from db.findings import views
from db.findings.views import FindingsReplaced
from db.ledger import chunks, job_view, jobs, queue, recording, results, series
from db.ledger.completion import JobChanged, JobGone
from db.ledger.leases import StaleClaim
from db.models import (
    Chunk,
    Dataset,
    Finding,
    Job,
    ModelVersion,
    Outcome,
    ReleasedFile,
    Review,
    Slice,
    User,
    Work,
)
from db.models.base import Base
from db.registry.versions import used_by
from db.settings import Settings
from tests.builders.series import ct, predict_all, read_job
from web.downloads import job_results
from web.downloads.job_results import export_rows
from worker import sweep

pytestmark = pytest.mark.usefixtures("champion")
on_postgres = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def ended(owner: User, slices: int = 5) -> Job:
    """A finished job whose slices all have the same pixels and files as in any other, and one label."""
    job = read_job(owner, [ct(f"{i}.dcm", float(i)) for i in range(slices)])
    predict_all()
    with session_scope() as s:
        slice_id = s.scalars(select(Slice.id).where(Slice.job_id == job.id).limit(1)).one()
        set_review(s, slice_id, owner, 1)
    return job


def delete(job: Job, user: User) -> None:
    with session_scope() as s:
        job_deletion.delete_job(s, job, user)


def remove_all() -> None:
    """Remove all rows of deleted jobs, as many rounds of the sweeper do."""
    for _ in count():
        with session_scope() as s:
            if not job_deletion.remove_some(s):
                return


def rows_of(job: Job) -> dict[str, int]:
    """Count the rows of a job in every table that has its id, and its labels."""
    tables = [table for table in Base.metadata.tables.values() if "job_id" in table.columns]
    reviews = select(func.count()).select_from(Review).join(Slice, Slice.id == Review.slice_id)
    with read_scope() as s:
        found = {
            table.name: s.scalar(select(func.count()).select_from(table).where(table.c.job_id == job.id)) or 0
            for table in tables
        }
        found["review"] = s.scalar(reviews.where(Slice.job_id == job.id)) or 0
        found["job"] = s.scalar(select(func.count()).select_from(Job).where(Job.id == job.id)) or 0
    return found


def test_deleted_job_is_gone_at_once(ann: User, champion: ModelVersion) -> None:
    job = ended(ann)
    delete(job, ann)
    with read_scope() as s:
        admin = User(id=0, name="root", is_admin=True)
        for user in (ann, admin):
            page = job_view.list_jobs(s, user, counted=True)
            assert (page.items, page.total) == ([], 0)
        assert (job_view.count_jobs(s), job_view.count_slices(s)) == ({}, {})
        assert used_by(s, champion) == 0


def test_key_of_a_deleted_job_makes_a_new_job(ann: User) -> None:
    file = jobs.ReceivedFile("a.zip", "0" * 64, 10, "zip", 1)
    ids = set()
    for _ in range(2):
        with session_scope() as s:
            job, is_new = jobs.create_job(s, owner=ann, files=[file], idempotency_key="k")
        assert is_new
        ids.add(job.id)
        with session_scope() as s:
            jobs.cancel_job(s, job)
            s.execute(update(Job).values(state="cancelled"))
        delete(job, ann)
    assert len(ids) == 2


def test_predictions_of_a_deleted_job_are_not_copied(ann: User) -> None:
    delete(ended(ann), ann)
    read_job(ann, [ct("0.dcm", 0.0)])
    with read_scope() as s:
        assert s.scalars(select(Chunk.state).order_by(Chunk.id.desc()).limit(1)).one() == Work.READY


def test_every_row_of_a_deleted_job_is_removed_and_no_other(
    ann: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_deletion, "ROWS", 2)
    deleted, kept = ended(ann), ended(bob)
    before = rows_of(kept)
    assert min(rows_of(deleted).values()) > 0
    delete(deleted, ann)
    left = sum(rows_of(deleted).values())
    while left:
        with session_scope() as s:
            assert job_deletion.remove_some(s)
        now = sum(rows_of(deleted).values())
        assert now < left
        left = now
        assert rows_of(kept) == before
    with session_scope() as s:
        assert not job_deletion.remove_some(s)
    with read_scope() as s:
        released = set(s.scalars(select(ReleasedFile.sha256)))
        assert released == {"0" * 64, "a" * 64, *s.scalars(select(Slice.sha256))}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_names_of_a_deleted_job_are_not_in_the_file_of_the_database(ann: User, database: Settings) -> None:
    def keep_removed_bytes(connection: Any, _record: object) -> None:  # as some builds of SQLite do
        connection.execute("PRAGMA secure_delete=OFF")

    get_engine().dispose()
    event.listen(get_engine(), "connect", keep_removed_bytes, insert=True)
    job = read_job(ann, [ct(f"SECRET_NAME/{i}.dcm", float(i)) for i in range(50)])
    predict_all()
    delete(job, ann)
    remove_all()
    get_engine().dispose()
    assert not (database.home / "ctbatch.db-wal").exists()
    assert b"SECRET_NAME" not in (database.home / "ctbatch.db").read_bytes()


def test_rows_are_removed_before_those_that_they_refer_to() -> None:
    names = [table.__tablename__ for table in job_deletion.OF_JOB]
    tables = Base.metadata.tables
    refer_to_job = {table.name for table in tables.values() for key in table.foreign_keys if _target(key) == "job"}
    assert set(names) == refer_to_job
    for place, name in enumerate(names):
        later = {"job", *names[place + 1 :]}
        assert {_target(key) for key in tables[name].foreign_keys} & {"job", *names} <= later
    referring = {table.name for table in tables.values() for key in table.foreign_keys if _target(key) in names}
    assert referring - set(names) == {"review"}


def _target(key: Any) -> str:
    return str(key.column.table.name)


def test_removal_goes_on_after_a_crash(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_deletion, "ROWS", 2)
    monkeypatch.setattr(sweep, "BATCHES", 3)
    job = ended(ann)
    delete(job, ann)
    before = rows_of(job)
    with suppress(KeyboardInterrupt), session_scope() as s:
        job_deletion.remove_some(s)
        raise KeyboardInterrupt
    assert rows_of(job) == before
    sweep.sweep()
    after = sum(rows_of(job).values())
    assert 0 < after < sum(before.values())
    while sum(rows_of(job).values()):
        sweep.sweep()


def test_open_job_is_not_deleted_and_a_cancelled_one_is(ann: User) -> None:
    job = read_job(ann, [ct("0.dcm", 0.0)])
    with pytest.raises(NotDeletable) as refused:
        delete(job, ann)
    assert refused.value.code == "job_open"
    with session_scope() as s:
        jobs.cancel_job(s, job)
    delete(job, ann)


def test_deleted_job_is_neither_retried_nor_deleted_again(ann: User) -> None:
    job = ended(ann)
    delete(job, ann)
    acts: list[Callable[[Session], object]] = [
        lambda s: jobs.retry_job(s, job),
        lambda s: jobs.cancel_job(s, job),
        lambda s: job_deletion.delete_job(s, job, ann),
    ]
    for is_removed in (False, True):
        if is_removed:
            remove_all()
        for act in acts:
            with pytest.raises(JobGone), session_scope() as s:
                act(s)


def retry(job: Job, _: User) -> None:
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 5


@pytest.mark.parametrize("change", [delete, retry])
@pytest.mark.parametrize(
    ("export", "begins_before"),
    [
        (results.iter_results, True),
        (results.iter_results, False),
        (export_rows, True),
        (series.iter_series, False),  # a job with one series is read at once
        (views.iter_findings, True),
        (views.iter_findings, False),
    ],
)
def test_export_breaks_off_if_its_job_is_deleted_or_retried_meanwhile(
    export: Callable[[Job], Iterator[Any]],
    begins_before: bool,
    change: Callable[[Job, User], None],
    ann: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_results, "ROWS_A_PIECE", 1)
    for module, name in ((results, "MAX_ROWS"), (series, "MANY_ROWS"), (views, "MAX_ROWS")):
        monkeypatch.setattr(module, name, 1)
    job_id = ended(ann).id
    with session_scope() as s:
        s.execute(update(Slice).values(state=Outcome.QUARANTINED, reason="worker_lost"))
        s.execute(text("DELETE FROM prediction"))
        job = s.get_one(Job, job_id)
        _ = job.model_version.label  # as an export has read it
    rows = export(job)
    if begins_before:
        next(rows)
    change(job, ann)
    with pytest.raises((JobGone, JobChanged, FindingsReplaced)):
        list(rows)


def dataset_of(*made: Job) -> Dataset:
    with session_scope() as s:
        return datasets.create_from_reviews(s, name="reviewed", user=None, job_ids=[job.id for job in made])


def test_job_that_a_dataset_is_being_built_from_is_deleted_later(ann: User) -> None:
    job, other = ended(ann), ended(ann)
    dataset = dataset_of(other, job)
    with pytest.raises(NotDeletable, match="reviewed/1") as refused:
        delete(job, ann)
    assert refused.value.code == "dataset_building"
    with session_scope() as s:
        s.execute(update(Dataset).where(Dataset.id == dataset.id).values(state=Work.DONE))
    delete(job, ann)
    with pytest.raises(DatasetError, match="no job"):
        dataset_of(other, job)


@on_postgres
def test_deletion_waits_for_a_dataset_that_is_being_created(ann: User) -> None:
    job = ended(ann)
    with session_scope() as creating:
        datasets.create_from_reviews(creating, name="reviewed", user=None, job_ids=[job.id])
        with session_scope() as s:
            s.execute(text("SET LOCAL lock_timeout = '100ms'"))
            with pytest.raises(OperationalError):
                job_deletion.delete_job(s, job, ann)
            s.rollback()


@on_postgres
def test_two_sweepers_do_not_wait_for_each_other(ann: User) -> None:
    job = ended(ann)
    delete(job, ann)
    with session_scope() as one:
        assert job_deletion.remove_some(one)
        with session_scope() as other:
            other.execute(text("SET LOCAL lock_timeout = '100ms'"))
            assert not job_deletion.remove_some(other)


def test_worker_that_lost_its_chunk_records_nothing_in_a_removed_job(ann: User) -> None:
    job = read_job(ann, [ct("0.dcm", 0.0)])
    with session_scope() as s:
        [(chunk, claim)] = queue.claim_chunks(s, "slow", 1)
        s.execute(update(Chunk).values(lease_until=from_now(-1)))
    sweep.sweep_ledger()
    predict_all()
    delete(job, ann)
    acts: list[Callable[[Session], object]] = [
        lambda s: recording.record_predictions(s, claim, chunk, "fake", []),
        lambda s: chunks.put_off_chunk(s, claim),
        lambda s: chunks.quarantine_chunk(s, claim, "file_lost"),
        lambda s: chunks.fail_chunk(s, claim, "worker_lost"),
    ]
    for is_removed in (False, True):
        if is_removed:
            remove_all()
        for act in acts:
            with pytest.raises(StaleClaim), session_scope() as s:
                act(s)


def test_deletion_is_logged_with_who_did_it_and_without_a_name(ann: User, caplog: pytest.LogCaptureFixture) -> None:
    job = ended(ann)
    with caplog.at_level(logging.INFO):
        delete(job, ann)
        remove_all()
    marked, removed = [vars(record) for record in caplog.records if hasattr(record, "job")]
    assert (marked["job"], marked["user"], removed["job"]) == (job.id, "ann", job.id)
    assert job.name not in caplog.text


def test_findings_of_a_job_are_found_by_what_they_are_about(ann: User) -> None:
    """Otherwise the removal of each series would read all findings of all jobs."""
    indexed = {column.name for index in Finding.__table__.indexes for column in list(index.columns)[:1]}  # type: ignore[attr-defined]
    assert {"patient_id", "study_id", "series_id"} <= indexed
