"""Ends jobs: locks the row of a job, and ends the job if none of its uploads and chunks is open.

The transaction that closes the last upload or chunk of a job also ends the job. A large job is left to the sweeper. It
ends the job in many short transactions, because no other process can write to SQLite during a transaction.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db.bulk import UNSEEN, one_of
from db.clock import from_now
from db.database import lift_time_limits, read_scope, session_scope
from db.findings.recording import read_findings, write_findings
from db.ledger.leases import StaleClaim
from db.ledger.tally import count_tallies
from db.models import OPEN_JOB, OPEN_WORK, Chunk, Job, JobState, Outcome, Slice, Upload, Work
from db.models.documents import JobTally
from db.series.batches import SLICES_A_BATCH, series_batches
from db.series.settle import settle, settling

LARGE = 50_000  # slices; in one transaction, 200,000 held SQLite's lock for 5 s, and 1,000,000 for longer than it waits

PAUSE_SECONDS = 0.1  # a writer that waits for SQLite looks this often whether it may write

Ending = tuple[JobTally, Sequence[Mapping[str, Any]]]
"""What the end of a job stores: the tally, and the rows of the findings."""


class JobChanged(Exception):
    """The job was ended or opened again between two steps, such as those of its end or of an export."""


class JobGone(StaleClaim):
    """The job was deleted. Nobody sees it any more, and nothing may be recorded in it."""


def lock_job(s: Session, job_id: str) -> Job:
    """Lock a job until the transaction ends, and return it. So only one transaction at a time can finish the job.

    Lock the job before its uploads and chunks, and lock only one job in a transaction, or several in the order of their
    ids. Otherwise two transactions can deadlock. Raises JobGone.
    """
    query = select(Job).where(Job.id == job_id).execution_options(populate_existing=True)
    job = s.scalars(query.with_for_update(key_share=True, of=Job)).one_or_none()
    if job is None or job.deleted_at is not None:
        raise JobGone(f"job {job_id}")
    return job


def check_kept(s: Session, job: Job) -> None:
    """Check that the rows of a job which were read before this call belong to the job as it was when `job` was read.

    Raises JobGone if the job was deleted, and JobChanged if it was opened again. An open job may have ended.
    """
    kept = s.execute(select(Job.retried_at).where(Job.id == job.id, Job.deleted_at.is_(None))).first()
    if kept is None:
        raise JobGone(f"job {job.id}")
    if kept.retried_at != job.retried_at:
        raise JobChanged(f"job {job.id}")


def is_large(s: Session, job_id: str) -> bool:
    """Return whether a job has so many slices that its end is left to the sweeper."""
    first = select(Slice.id).where(Slice.job_id == job_id).limit(LARGE + 1).subquery()
    return (s.scalar(select(func.count()).select_from(first)) or 0) > LARGE


def finish_if_done(s: Session, job: Job) -> None:
    """End the job and write its findings, if no upload and no chunk is open. Leave a large job to `finish_in_steps`.

    The rows are queried each time, because a counter could become wrong. The caller has locked the job.
    """
    is_settled = job.unpacked_at is not None
    if _waits(s, Upload, job) or (is_settled and _waits(s, Chunk, job)) or is_large(s, job.id):
        return
    if not is_settled:
        settle(s, job.id)
        _set_unpacked(s, job)
        if _waits(s, Chunk, job):
            return
    _end(s, job, _read_ending(s, job))


def finish_in_steps(job_id: str) -> None:
    """Do what `finish_if_done` does for a job of any size, in many short transactions. Each can be repeated.

    If the job is ended, deleted or opened again meanwhile, the rest is left undone.
    """
    with suppress(JobChanged, JobGone):
        with read_scope() as s:
            lift_time_limits(s)
            job = s.get_one(Job, job_id)
            if _waits(s, Upload, job):
                return
            batches = series_batches(s, job_id) if job.unpacked_at is None else []
        if job.unpacked_at is None:
            _cancel_rest(job)
            for step in settling(job_id, batches):
                began = time.monotonic()
                with _step(job) as (s, _):
                    step(s)
                time.sleep(min(time.monotonic() - began, PAUSE_SECONDS))
            with _step(job) as (s, _):
                _set_unpacked(s, job)
        with read_scope() as s:
            job = s.get_one(Job, job_id)
            if _waits(s, Chunk, job):
                return
        _cancel_rest(job)
        with read_scope() as s:
            lift_time_limits(s)
            ending = _read_ending(s, job)
        with _step(job) as (s, locked):
            _end(s, locked, ending)


def _waits(s: Session, model: type[Upload] | type[Chunk], job: Job) -> bool:
    """Return whether the job has ended, or has open work of this kind."""
    is_open = select(model.id).where(model.job_id == job.id, model.state.in_(OPEN_WORK)).limit(1)
    return job.state not in OPEN_JOB or s.scalar(is_open) is not None


@contextmanager
def _step(job: Job) -> Iterator[tuple[Session, Job]]:
    """Open a transaction for a step of the job's end, and lock the job. Raises JobChanged."""
    with session_scope() as s:
        lift_time_limits(s)
        locked = lock_job(s, job.id)
        is_same = (locked.retried_at, locked.unpacked_at) == (job.retried_at, job.unpacked_at)
        if locked.state not in OPEN_JOB or not is_same:
            raise JobChanged(job.id)
        yield s, locked


def _cancel_rest(job: Job) -> None:
    """Cancel the slices of the job's cancelled chunks. `cancel_job` leaves the slices of a large job open."""
    left = select(Slice.id).join(Chunk, Chunk.id == Slice.chunk_id)
    left = left.where(Slice.job_id == job.id, Slice.state == Outcome.OPEN, Chunk.state == Work.CANCELLED)
    while True:
        with _step(job) as (s, _):
            ids = s.scalars(left.limit(SLICES_A_BATCH)).all()
            cancelled = update(Slice).where(one_of(s, Slice.id, ids)).values(state=Outcome.CANCELLED)
            s.execute(cancelled, execution_options=UNSEEN)
        if len(ids) < SLICES_A_BATCH:
            return


def _set_unpacked(s: Session, job: Job) -> None:
    s.execute(update(Job).where(Job.id == job.id).values(unpacked_at=from_now()))


def _read_ending(s: Session, job: Job) -> Ending:
    """Read what the end of the job stores. From now on, its rows change only if somebody retries the job."""
    return count_tallies(s, [job.id])[job.id], read_findings(s, job)


def _end(s: Session, job: Job, ending: Ending) -> None:
    tally, findings = ending
    error = s.scalar(select(Upload.error).where(Upload.job_id == job.id, Upload.state == Work.FAILED).limit(1))
    if job.cancel_requested_at is not None:
        state = JobState.CANCELLED
    else:
        state = JobState.FAILED if error else JobState.FINISHED
    started = func.coalesce(Job.started_at, from_now())  # a claim does not set `started_at` if the row is locked
    ended = {"state": state, "error": error, "started_at": started, "finished_at": from_now(), "tally": tally}
    s.execute(update(Job).where(Job.id == job.id).values(**ended))
    s.refresh(job)
    write_findings(s, job, findings)
