"""Deletes ended jobs. A request marks the job, the sweeper removes its rows in batches, and the reaper its files.

This module is above the ledger, because a job cannot be deleted while a dataset is being built from it.
"""

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from db.access.audit import Action, record
from db.bulk import one_of
from db.clock import from_now
from db.database import after_commit
from db.datasets.deletion import ROWS, NotDeletable, release_column
from db.ledger import leases
from db.ledger.completion import lock_job
from db.models import (
    OPEN_JOB,
    OPEN_WORK,
    Chunk,
    Dataset,
    Finding,
    Job,
    Patient,
    Prediction,
    Review,
    Series,
    Slice,
    Study,
    Upload,
    User,
    deleted_jobs,
)

log = logging.getLogger(__name__)

OF_JOB: tuple[Any, ...] = (Finding, Prediction, Slice, Series, Study, Patient, Chunk, Upload)
"""The tables with rows of a job. A row refers only to rows of later tables. Labels refer to slices."""

_FILES: dict[Any, InstrumentedAttribute[Any]] = {
    Slice: Slice.sha256,
    Chunk: Chunk.array_sha256,
    Upload: Upload.sha256,
}


def delete_job(s: Session, job: Job, user: User) -> None:
    """Mark an ended job as deleted by this user. From then on, nobody sees it, and its rows and files are removed.

    Its Idempotency-Key may be used again. Raises NotDeletable, JobGone.
    """
    job = lock_job(s, job.id)
    if job.state in OPEN_JOB:
        raise NotDeletable("job_open", "the job has not ended: cancel it, or wait until it has ended")
    for dataset in s.scalars(select(Dataset).where(Dataset.state.in_(OPEN_WORK))):
        if any(source.get("job") == job.id for source in dataset.sources):
            message = f"the dataset {dataset.label} is being built from this job: delete the job when it is built"
            raise NotDeletable("dataset_building", message)
    s.execute(update(Job).where(Job.id == job.id).values(deleted_at=from_now(), idempotency_key=None))
    record(s, Action.JOB_DELETE, f"job {job.id}")
    facts = {"job": job.id, "user": user.name}
    after_commit(s, lambda: log.info("job deleted", extra=facts))


def is_any_left(s: Session) -> bool:
    """Return whether there are rows of deleted jobs."""
    return s.scalar(deleted_jobs().limit(1)) is not None


def remove_some(s: Session) -> bool:
    """Remove up to ROWS rows of a deleted job, and in the end the job itself. Return False if there was nothing to do.

    The files of the removed rows are released. A job whose rows another sweeper is removing is skipped.
    """
    oldest = deleted_jobs().order_by(Job.deleted_at).limit(1)
    job_id = s.scalar(leases.locked(oldest, s, of=Job))
    if job_id is None:
        return False
    for table in OF_JOB:
        ids = s.scalars(select(table.id).where(table.job_id == job_id).limit(ROWS)).all()
        if ids:
            _remove(s, table, ids)
            return True
    s.execute(delete(Job).where(Job.id == job_id))
    after_commit(s, lambda: log.info("rows of a deleted job were removed", extra={"job": job_id}))
    return True


def _remove(s: Session, table: Any, ids: Sequence[int]) -> None:
    rows = one_of(s, table.id, ids)
    if table in _FILES:
        release_column(s, _FILES[table], rows)
    if table is Slice:
        s.execute(delete(Review).where(one_of(s, Review.slice_id, ids)))
    s.execute(delete(table).where(rows))
