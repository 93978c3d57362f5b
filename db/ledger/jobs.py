"""Creates, finds, cancels and retries the jobs of users."""

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, null, or_, select, update
from sqlalchemy.orm import Session

from db import broker
from db.access.audit import Action, record
from db.access.request_keys import IdempotencyConflict
from db.broker import Queue
from db.bulk import one_of
from db.clock import from_now
from db.database import lift_time_limits, lock_row
from db.findings.recording import remove_findings
from db.ledger import leases
from db.ledger.chunks import add_chunk, close_slices
from db.ledger.completion import finish_if_done, is_large, lock_job
from db.ledger.recording import cancel_loose_files
from db.models import OPEN_JOB, Chunk, Job, JobState, Outcome, Slice, Upload, User, Work
from db.reasons import DECODER_FAILED
from db.registry.champions import champion
from db.series.geometry import BOLUS_TRACKING

PRIORITIES = range(-10, 11)


class NoModelVersion(Exception):
    """No model version is the champion yet, so no job can be predicted."""


@dataclass(frozen=True)
class ReceivedFile:
    """A file of a submission that is safe in storage. Its inspection gives `kind` and `entries`.

    `entries` is None if a packed TAR was not unpacked to its end.
    """

    filename: str
    sha256: str
    size: int
    kind: str
    entries: int | None


def create_job(
    s: Session,
    *,
    owner: User,
    files: list[ReceivedFile],
    name: str = "",
    priority: int = 0,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """Make a job of a submission. Return it, and whether it is new. A repeated request with a key gets the same job.

    Raises NoModelVersion, IdempotencyConflict, ValueError (no files, or a priority outside -10..10).
    """
    if not files or priority not in PRIORITIES:
        raise ValueError("a job needs at least one file, and a priority from -10 to 10")
    request_hash = _request_hash(files, name, priority)
    lock_row(s, User, owner.id)  # so that two requests with one key make only one job
    if idempotency_key and (job := _job_of_key(s, owner, idempotency_key)):
        if job.request_hash != request_hash:
            raise IdempotencyConflict("this Idempotency-Key was used before with another request")
        return job, False
    model_version = champion(s)
    if model_version is None:
        raise NoModelVersion("no model version is the champion: promote one")
    job = Job(
        id=base64.b32encode(secrets.token_bytes(10)).decode().lower(),
        owner_id=owner.id,
        name=name or files[0].filename,
        priority=priority,
        model_version_id=model_version.id,
        recipe=model_version.recipe,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
    )
    s.add(job)
    s.flush()
    uploads = [Upload(job_id=job.id, position=i, **vars(file)) for i, file in enumerate(files)]
    s.add_all(uploads)
    s.flush()
    record(s, Action.JOB_SUBMIT, f"job {job.id}")
    for _ in uploads:
        broker.wake_after_commit(s, Queue.INGEST)
    return job, True


def _request_hash(files: list[ReceivedFile], name: str, priority: int) -> str:
    request = [name, priority, [[f.filename, f.sha256] for f in files]]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()


def _job_of_key(s: Session, owner: User, key: str) -> Job | None:
    return s.scalar(select(Job).where(Job.owner_id == owner.id, Job.idempotency_key == key))


def may_see(job: Job, user: User) -> bool:
    """Return whether this user may see the job while it is not deleted. Admins may see all jobs, others their own."""
    return user.is_admin or job.owner_id == user.id


def cancel_job(s: Session, job: Job) -> bool:
    """Cancel an open job. Return False if it has ended. Raises JobGone.

    Waiting chunks and loose files are cancelled now. Chunks and files that a worker has claimed are cancelled when the
    worker reports. If an archive is not unpacked yet, an ingest worker records each remaining entry as cancelled. The
    slices of a large job are cancelled when it ends.
    """
    job = lock_job(s, job.id)
    if job.state not in OPEN_JOB:
        return False
    if job.cancel_requested_at is None:
        s.execute(update(Job).where(Job.id == job.id).values(cancel_requested_at=from_now()))
        s.refresh(job)
        record(s, Action.JOB_CANCEL, f"job {job.id}")
    # Skip a chunk that is being claimed at this moment. It is cancelled when its worker reports.
    ready = leases.locked(select(Chunk.id).where(Chunk.job_id == job.id, Chunk.state == Work.READY), s, of=Chunk)
    waiting = s.scalars(ready).all()
    cancelled = {"state": Work.CANCELLED, "closed_at": from_now()}
    s.execute(update(Chunk).where(one_of(s, Chunk.id, waiting)).values(cancelled))
    if not is_large(s, job.id):
        close_slices(s, waiting, Outcome.CANCELLED)
    cancel_loose_files(s, job)
    finish_if_done(s, job)
    return True


def retry_job(s: Session, job: Job) -> int:
    """Open an ended job again, and retry quarantined slices, cancelled slices, and uploads that were not unpacked.

    Also retry files that could not be decoded (`_to_decode_again`). Their uploads get new budgets. Slices that were not
    prepared, or whose prepared pixels may be lost, are read from their uploads again. If anything is read again, bolus
    tracking slices are opened too, because with more slices they may be a series over time.

    Return how many slices and uploads are retried. Bolus tracking slices do not count. Return 0 if the job has not
    ended, or if there is nothing to retry. Raises JobGone.
    """
    lift_time_limits(s)
    job = lock_job(s, job.id)
    if job.state in OPEN_JOB:
        return 0
    failed = _unpack_again(s, Upload.job_id == job.id, Upload.state == Work.FAILED)
    again = or_(Slice.state.in_((Outcome.QUARANTINED, Outcome.CANCELLED)), _to_decode_again(s, job))
    uploads, reread = _read_again(s, Slice.job_id == job.id, again)
    if failed or uploads:
        again = or_(again, Slice.reason == BOLUS_TRACKING)
    prepared = s.execute(
        select(Chunk.array_sha256, Slice.id, Slice.reason)
        .join(Chunk, Chunk.id == Slice.chunk_id)
        .where(Slice.job_id == job.id, again)
        .order_by(Slice.id)
    ).all()
    if not (failed or uploads or prepared):
        return 0
    record(s, Action.JOB_RETRY, f"job {job.id}")
    reopened = {"state": JobState.RUNNING, "error": None, "tally": null(), "retried_at": from_now()}
    unset = dict.fromkeys(("finished_at", "cancel_requested_at", "unpacked_at"))
    s.execute(update(Job).where(Job.id == job.id).values(**reopened, **unset))
    remove_findings(s, job)
    s.refresh(job)
    by_array: dict[str, list[int]] = {}
    for array_sha256, slice_id, _ in prepared:
        by_array.setdefault(array_sha256, []).append(slice_id)
    for array_sha256, slice_ids in by_array.items():
        again_open = {"state": Outcome.OPEN, "reason": None, "detail": None}
        s.execute(update(Slice).where(one_of(s, Slice.id, slice_ids)).values(again_open))
        add_chunk(s, job, array_sha256, slice_ids)  # new chunks over the same arrays
    for _ in {*failed, *uploads}:
        broker.wake_after_commit(s, Queue.INGEST)
    finish_if_done(s, job)
    return len(failed) + reread + sum(reason != BOLUS_TRACKING for *_, reason in prepared)


def _to_decode_again(s: Session, job: Job) -> ColumnElement[bool]:
    """Return the SQL condition of the rejected slices that are decoded again.

    A retry first decodes the files that were not decoded because other files had used up the budget of the upload. The
    next retry decodes the files whose decoder was ended. These come later, because they may use up the budget again.
    """
    untried = Slice.reason == "decoder_budget"
    is_any = s.scalar(select(Slice.id).where(Slice.job_id == job.id, untried).limit(1)) is not None
    return untried if is_any else Slice.reason.in_(DECODER_FAILED)


def _read_again(s: Session, *conditions: ColumnElement[bool]) -> tuple[set[int], int]:
    """Let slices that have no chunk, or whose file was lost, be read from their uploads again.

    Return the ids of these uploads, and the number of slices. The slices match `WAITS_FOR_READING` until they are read.
    """
    unprepared = or_(Slice.chunk_id.is_(None), and_(Slice.state == Outcome.QUARANTINED, Slice.reason == "file_lost"))
    unread = update(Slice).where(*conditions, unprepared)
    values = {"state": Outcome.OPEN, "reason": None, "detail": None, "chunk_id": None, "array_row": None}
    upload_ids = list(s.scalars(unread.values(values).returning(Slice.upload_id)))
    _unpack_again(s, one_of(s, Upload.id, set(upload_ids)))
    return set(upload_ids), len(upload_ids)


def _unpack_again(s: Session, *conditions: ColumnElement[bool]) -> list[int]:
    """Let uploads be unpacked again. Return their ids."""
    anew = {"attempts": 0, "put_offs": 0, "decode_seconds": 0.0, "decode_failures": 0}
    values = {"state": Work.READY, "error": None, "closed_at": None, **anew}
    again = update(Upload).values(**values, published_at=from_now())
    return list(s.scalars(again.where(*conditions).returning(Upload.id)))
