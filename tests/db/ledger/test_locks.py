"""What transactions of the ledger do while others hold its rows, on PostgreSQL: SQLite's writers take turns."""

import sqlite3
import threading
from collections.abc import Callable

import pytest
from psycopg import errors
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.access import tokens
from db.clock import from_now
from db.database import in_transaction, lock_row, read_scope, session_scope
from db.ledger import completion, jobs, leases, queue, recording
from db.ledger.leases import StaleClaim
from db.ledger.recording import ReadSlice
from db.models import Chunk, Job, JobState, Outcome, Upload, User, Work
from worker import sweep

pytestmark = pytest.mark.usefixtures("champion")
on_postgres = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def submit(owner: User) -> Job:
    file = jobs.ReceivedFile("a.png", "0" * 64, 10, "loose", 1)
    with session_scope() as s:
        return jobs.create_job(s, owner=owner, files=[file])[0]


def unpack() -> None:
    """Unpack the upload whose turn it is, to one chunk of one slice."""
    with session_scope() as s:
        claim = queue.claim_upload(s, "w")
        assert claim is not None
        upload = s.get_one(Upload, claim.id, populate_existing=True)
    row = ReadSlice(0, 0, "a.png", Outcome.OPEN, pixels_sha256=f"p{upload.id}", array_row=0, series_uid="folder:")
    with session_scope() as s:
        recording.record_read(s, claim, upload, [row], "a" * 64)
        recording.close_upload(s, claim, upload)


def impatient(s: Session) -> Session:
    """Let a session fail at once where it would wait for a lock."""
    s.execute(text("SET LOCAL lock_timeout = '100ms'"))
    return s


@on_postgres
def test_claim_of_an_upload_waits_for_nobody(ann: User) -> None:
    job = submit(ann)
    with session_scope() as other:
        completion.lock_job(other, job.id)
        other.execute(select(User).where(User.id == ann.id).with_for_update())
        with session_scope() as s:
            assert queue.claim_upload(impatient(s), "w") is not None


@on_postgres
def test_claim_of_chunks_waits_for_nobody(ann: User, bob: User) -> None:
    held, free = submit(ann), submit(bob)
    unpack()
    unpack()
    with session_scope() as other:
        completion.lock_job(other, held.id)
        with session_scope() as s:
            claimed = queue.claim_chunks(impatient(s), "w", 2)
    assert {chunk.job_id for chunk, _ in claimed} == {held.id, free.id}


@on_postgres
@pytest.mark.parametrize(
    "hold",
    [
        lambda s, job: completion.lock_job(s, job.id),
        lambda s, job: lock_row(s, User, job.owner_id),
        lambda s, _: queue.claim_upload(s, "w"),
    ],
    ids=["job", "owner", "claim"],
)
def test_rows_that_refer_to_locked_ones_are_added_without_waiting(
    hold: Callable[[Session, Job], object], ann: User
) -> None:
    job = submit(ann)
    with session_scope() as other:
        hold(other, job)
        with session_scope() as s:
            tokens.issue_token(impatient(s), ann, "new")
            s.add(Upload(job_id=job.id, position=1, filename="b.png", sha256="1" * 64, size=9, kind="loose", entries=1))


@on_postgres
def test_worker_that_lost_its_chunk_and_the_one_that_has_it_do_not_wait_for_each_other(ann: User) -> None:
    job = submit(ann)
    unpack()
    with session_scope() as s:
        [(chunk, stale)] = queue.claim_chunks(s, "slow", 1)
        s.execute(update(Chunk).values(lease_until=from_now(-1)))
    sweep.sweep_ledger()
    with session_scope() as slow:
        completion.lock_job(slow, job.id)
        with session_scope() as s:
            assert queue.claim_chunks(impatient(s), "quick", 1)
        with pytest.raises(StaleClaim):
            recording.record_predictions(slow, stale, chunk, "openvino-f32", [])


@on_postgres
def test_sweeper_frees_the_work_of_other_jobs_while_one_job_is_locked(ann: User, bob: User) -> None:
    held, free = submit(ann), submit(bob)
    unpack()
    unpack()
    with session_scope() as s:
        assert len(queue.claim_chunks(s, "lost", 2)) == 2
        last = jobs.create_job(s, owner=ann, files=[jobs.ReceivedFile("b.png", "1" * 64, 10, "loose", 1)])[0]
    with session_scope() as s:
        assert queue.claim_upload(s, "lost")
        s.execute(update(Chunk).values(lease_until=from_now(-1)))
        s.execute(update(Upload).where(Upload.job_id == last.id).values(lease_until=from_now(-1)))
    with session_scope() as other:
        completion.lock_job(other, held.id)
        sweep.free_lost()
        with read_scope() as s:
            states = dict(s.execute(select(Chunk.job_id, Chunk.state)).all())
            assert states == {held.id: Work.RUNNING, free.id: Work.READY}
            assert s.scalar(select(Upload.state).where(Upload.job_id == last.id)) == Work.READY
    sweep.free_lost()
    with read_scope() as s:
        assert set(s.scalars(select(Chunk.state))) == {Work.READY}


@on_postgres
def test_sweeper_ends_other_jobs_while_one_job_is_locked(ann: User, bob: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "LARGE", 0)
    held, free = submit(ann), submit(bob)
    unpack()
    unpack()
    monkeypatch.setattr(completion, "lift_time_limits", impatient)
    with session_scope() as other:
        completion.lock_job(other, held.id)
        sweep.finish_jobs()
        with read_scope() as s:
            settled = s.scalars(select(Job.id).where(Job.unpacked_at.is_not(None))).all()
    assert settled == [free.id]


@on_postgres
def test_job_whose_row_was_held_at_its_claim_has_a_start_at_its_end(ann: User) -> None:
    job = submit(ann)
    with session_scope() as other:
        completion.lock_job(other, job.id)
        with session_scope() as s:
            claim = queue.claim_upload(impatient(s), "w")
    assert claim is not None
    with session_scope() as s:
        recording.close_upload(s, claim, s.get_one(Upload, claim.id))
    with read_scope() as s:
        ended = s.get_one(Job, job.id)
        assert (ended.state, ended.started_at is None) == (JobState.FINISHED, False)


@on_postgres
def test_message_is_noted_as_sent_without_waiting_for_rows_that_are_claimed(ann: User) -> None:
    submit(ann)
    submit(ann)
    with session_scope() as other:
        claim = queue.claim_upload(other, "w")
        assert claim is not None
        with session_scope() as s:
            ids = list(s.scalars(select(Upload.id)))
            leases.mark_sent(impatient(s), Upload, ids)


@pytest.mark.slow
@on_postgres
def test_transaction_that_ends_in_a_deadlock_is_tried_again(ann: User, bob: User) -> None:
    both_hold_one = threading.Barrier(2)
    calls: list[int] = []

    def update_both(s: Session, first: int, second: int) -> None:
        calls.append(first)
        s.execute(update(User).where(User.id == first).values(served_at=from_now()))
        if len(calls) <= 2:
            both_hold_one.wait(10)
        s.execute(update(User).where(User.id == second).values(served_at=from_now()))

    def act(first: int, second: int) -> None:
        in_transaction(lambda s: update_both(s, first, second))

    threads = [threading.Thread(target=act, args=pair) for pair in ((ann.id, bob.id), (bob.id, ann.id))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 3
    with read_scope() as s:
        assert all(s.scalars(select(User.served_at)))


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("not now")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("cause", "calls"),
    [
        (sqlite_error(sqlite3.SQLITE_BUSY), 3),
        (sqlite_error(sqlite3.SQLITE_FULL), 1),
        (errors.DeadlockDetected(), 3),
        (errors.SerializationFailure(), 3),
        (errors.LockNotAvailable(), 3),
        (errors.AdminShutdown(), 1),
    ],
    ids=["locked", "disk full", "deadlock", "not serializable", "lock timeout", "shut down"],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_transaction_that_others_broke_off_is_tried_again(cause: Exception, calls: int) -> None:
    tries: list[Callable[..., object]] = []

    def work(s: Session) -> None:
        tries.append(s.execute)
        raise OperationalError("BEGIN", None, cause)

    with pytest.raises(OperationalError):
        in_transaction(work)
    assert len(tries) == calls
