"""Ends jobs: locks the row of a job, and ends the job if none of its uploads and chunks is open."""

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.findings.recording import write_findings
from db.ledger.leases import StaleClaim
from db.ledger.tally import count_tallies
from db.models import OPEN_JOB, OPEN_WORK, Chunk, Job, JobState, Upload, Work
from db.series.settle import settle


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


def check_kept(s: Session, job_id: str) -> None:
    """Raise JobGone if the job was deleted. Rows that were read before this call are complete if it does not raise."""
    if s.scalar(select(Job.id).where(Job.id == job_id, Job.deleted_at.is_(None))) is None:
        raise JobGone(f"job {job_id}")


def finish_if_done(s: Session, job: Job) -> None:
    """End the job and write its findings, if no upload and no chunk is open.

    The rows are queried each time, because a counter could become wrong. The caller has locked the job.
    """
    if job.state not in OPEN_JOB:
        return
    open_uploads = select(Upload.id).where(Upload.job_id == job.id, Upload.state.in_(OPEN_WORK)).limit(1)
    if s.scalar(open_uploads) is not None:
        return
    if job.unpacked_at is None:
        settle(s, job.id)
        s.execute(update(Job).where(Job.id == job.id).values(unpacked_at=from_now()))
    open_chunks = select(Chunk.id).where(Chunk.job_id == job.id, Chunk.state.in_(OPEN_WORK)).limit(1)
    if s.scalar(open_chunks) is not None:
        return
    error = s.scalar(select(Upload.error).where(Upload.job_id == job.id, Upload.state == Work.FAILED).limit(1))
    if job.cancel_requested_at is not None:
        state = JobState.CANCELLED
    else:
        state = JobState.FAILED if error else JobState.FINISHED
    tally = count_tallies(s, [job.id])[job.id]  # from now on, the rows change only if somebody retries the job
    started = func.coalesce(Job.started_at, from_now())  # a claim does not set it if the row is locked
    ended = {"state": state, "error": error, "started_at": started, "finished_at": from_now(), "tally": tally}
    s.execute(update(Job).where(Job.id == job.id).values(**ended))
    s.refresh(job)
    write_findings(s, job)
