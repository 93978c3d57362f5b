"""All that can happen to a job: create, claim, record, finish, cancel, retry."""

import base64
import hashlib
import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from db import broker, leases
from db.base import from_now
from db.leases import Claim
from db.models import OPEN_JOB, OPEN_WORK, Chunk, Job, JobState, Outcome, Slice, Upload, User, Work
from db.registry import champion

PRIORITIES = range(-10, 11)


class NoModelVersion(Exception):
    """No model version is champion yet, so there is nothing to predict with."""


class IdempotencyConflict(Exception):
    """This Idempotency-Key was used before, with another request."""


@dataclass(frozen=True)
class ReceivedFile:
    """A file of a submission, already durable in storage. `kind` and `entries` come from its inspection."""

    filename: str
    sha256: str
    size: int
    kind: str
    entries: int


def create_job(
    s: Session,
    *,
    owner: User,
    files: list[ReceivedFile],
    name: str = "",
    priority: int = 0,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """The job of this submission, and whether it is new: the same key with the same request gives the same job.

    Raises NoModelVersion, IdempotencyConflict, ValueError (no files, or a priority outside -10..10).
    """
    if not files or priority not in PRIORITIES:
        raise ValueError("a job needs at least one file, and a priority from -10 to 10")
    request_hash = _request_hash(files, name, priority)
    s.execute(update(User).where(User.id == owner.id).values(name=User.name))  # one submission of an owner at a time
    if idempotency_key and (job := _job_of_key(s, owner, idempotency_key)):
        if job.request_hash != request_hash:
            raise IdempotencyConflict("this Idempotency-Key came before with another request")
        return job, False
    model_version = champion(s)
    if model_version is None:
        raise NoModelVersion("there is no model yet: train or import one, then promote it")
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
    for upload in uploads:
        broker.send_after_commit(s, broker.unpack_hint(upload.id))
    return job, True


def _request_hash(files: list[ReceivedFile], name: str, priority: int) -> str:
    request = [name, priority, [[f.filename, f.sha256] for f in files]]
    return hashlib.sha256(json.dumps(request).encode()).hexdigest()


def _job_of_key(s: Session, owner: User, key: str) -> Job | None:
    return s.scalar(select(Job).where(Job.owner_id == owner.id, Job.idempotency_key == key))


def lock_job(s: Session, job_id: str) -> Job:
    """The job, locked until the transaction ends: whatever may finish it does so one after the other."""
    query = select(Job).where(Job.id == job_id).execution_options(populate_existing=True)
    return s.scalars(query.with_for_update(of=Job)).one()


def _turn() -> tuple[Any, ...]:
    """By priority, then the owner served longest ago, then their job served longest ago."""
    return (
        Job.priority.desc(),
        User.served_at.asc().nulls_first(),
        Job.served_at.asc().nulls_first(),
        Job.created_at,
    )


def claim_upload(s: Session, worker: str, *, smaller_than: Upload | None = None) -> Claim | None:
    """Claim the upload whose turn it is; with `smaller_than`, only one that may go before that one.

    A smaller upload (under half the entries, or of higher priority) goes first, so that a large archive does not
    keep a small one waiting.
    """
    query = (
        select(Upload.id, Job.id.label("job"))
        .join(Job, Job.id == Upload.job_id)
        .join(User, User.id == Job.owner_id)
        .where(leases.claimable(Upload))
        .order_by(*_turn(), Upload.position)
        .limit(1)
    )
    if smaller_than is not None:
        own_priority = s.scalars(select(Job.priority).where(Job.id == smaller_than.job_id)).one()
        query = query.where(
            Job.id != smaller_than.job_id,
            (Job.priority > own_priority)
            | ((Job.priority == own_priority) & (Upload.entries * 2 < smaller_than.entries)),
        )
    row = s.execute(leases.locked(query, s, of=Upload)).first()
    if row is None or (claim := leases.take(s, Upload, row.id, worker)) is None:
        return None
    _served(s, row.job)
    return claim


def claim_chunks(s: Session, worker: str, slices: int, without: Collection[int] = ()) -> list[tuple[Chunk, Claim]]:
    """Claim the chunk whose turn it is, and more of the same model version until they hold `slices`.

    So a hundred jobs of one slice cost the engine what one job of a hundred does. Chunks of the model
    versions `without` are left to other workers.
    """
    claimed: list[tuple[Chunk, Claim]] = []
    model_version_id: int | None = None
    room = slices
    while room > 0:
        query = (
            select(Chunk)
            .join(Job, Job.id == Chunk.job_id)
            .join(User, User.id == Job.owner_id)
            .where(leases.due(Chunk))
            .order_by(*_turn(), Chunk.id)
            .limit(1)
        )
        if model_version_id is not None:
            query = query.where(Job.model_version_id == model_version_id, Chunk.size <= room, Chunk.suspect.is_(False))
        if without:
            query = query.where(Job.model_version_id.not_in(without))
        chunk = s.scalar(leases.locked(query, s, of=Chunk))
        if chunk is None or (claim := leases.take(s, Chunk, chunk.id, worker)) is None:
            break
        model_version_id = _served(s, chunk.job_id)
        claimed.append((chunk, claim))
        room = 0 if chunk.suspect else room - chunk.size
    return claimed


def _served(s: Session, job_id: str) -> int:
    """Note that this job and its owner had their turn; the job's model version."""
    job = s.get_one(Job, job_id)
    if job.state == JobState.QUEUED:
        s.execute(update(Job).where(Job.id == job_id).values(state=JobState.RUNNING, started_at=from_now()))
    s.execute(update(Job).where(Job.id == job_id).values(served_at=from_now()))
    s.execute(update(User).where(User.id == job.owner_id).values(served_at=from_now()))
    return job.model_version_id


def finish_if_done(s: Session, job: Job) -> None:
    """End the job if nothing of it is open. Asked of the rows each time: there is no counter to drift.

    The caller holds the job's lock.
    """
    if job.state not in OPEN_JOB:
        return
    open_uploads = select(Upload.id).where(Upload.job_id == job.id, Upload.state.in_(OPEN_WORK)).limit(1)
    if s.scalar(open_uploads) is not None:
        return
    if job.unpacked_at is None:
        s.execute(update(Job).where(Job.id == job.id).values(unpacked_at=from_now()))
    open_chunks = select(Chunk.id).where(Chunk.job_id == job.id, Chunk.state.in_(OPEN_WORK)).limit(1)
    if s.scalar(open_chunks) is not None:
        return
    error = s.scalar(select(Upload.error).where(Upload.job_id == job.id, Upload.state == Work.FAILED).limit(1))
    if job.cancel_requested_at is not None:
        state = JobState.CANCELLED
    else:
        state = JobState.FAILED if error else JobState.FINISHED
    s.execute(update(Job).where(Job.id == job.id).values(state=state, error=error, finished_at=from_now()))
    s.refresh(job)


def cancel_job(s: Session, job: Job) -> bool:
    """Ask an open job to stop; False if it has ended. Chunks that wait are cancelled now, running ones when they
    report; what is not unpacked yet is listed, and every entry of it cancelled, by an ingest worker."""
    job = lock_job(s, job.id)
    if job.state not in OPEN_JOB:
        return False
    if job.cancel_requested_at is None:
        s.execute(update(Job).where(Job.id == job.id).values(cancel_requested_at=from_now()))
        s.refresh(job)
    # A chunk that is being claimed at this moment is left alone: it is cancelled when it reports.
    ready = leases.locked(select(Chunk.id).where(Chunk.job_id == job.id, Chunk.state == Work.READY), s, of=Chunk)
    waiting = s.scalars(ready).all()
    s.execute(update(Chunk).where(Chunk.id.in_(waiting)).values(state=Work.CANCELLED, closed_at=from_now()))
    for chunk_id in waiting:
        close_slices(s, chunk_id, Outcome.CANCELLED)
    finish_if_done(s, job)
    return True


def close_slices(s: Session, chunk_id: int, outcome: Outcome, reason: str | None = None) -> int:
    """Give the slices of a chunk that have no outcome yet this one; how many."""
    result: Any = s.execute(
        update(Slice)
        .where(Slice.chunk_id == chunk_id, Slice.state == Outcome.OPEN)
        .values(state=outcome, reason=reason)
    )
    return int(result.rowcount)


def retry_job(s: Session, job: Job) -> int:
    """Open an ended job again for what failed in it, and only that: slices quarantined or cancelled, and uploads
    that could not be unpacked. How many slices and uploads were put back; 0 if there is nothing to retry."""
    job = lock_job(s, job.id)
    if job.state in OPEN_JOB:
        return 0
    uploads = s.scalars(
        update(Upload)
        .where(Upload.job_id == job.id, Upload.state == Work.FAILED)
        .values(state=Work.READY, attempts=0, error=None, published_at=from_now())
        .returning(Upload.id)
    ).all()
    again = Slice.state.in_((Outcome.QUARANTINED, Outcome.CANCELLED))
    unread = s.scalars(
        select(Slice.upload_id).where(Slice.job_id == job.id, again, Slice.chunk_id.is_(None)).distinct()
    ).all()
    count = len(uploads) + _reopen_chunks(s, job, again) + _reread(s, job, list(unread))
    if count:
        s.execute(
            update(Job)
            .where(Job.id == job.id)
            .values(state=JobState.RUNNING, error=None, finished_at=None, cancel_requested_at=None, unpacked_at=None)
        )
        for upload_id in {*uploads, *unread}:
            broker.send_after_commit(s, broker.unpack_hint(upload_id))
        s.refresh(job)
    return count


def _reopen_chunks(s: Session, job: Job, again: ColumnElement[bool]) -> int:
    """Put the slices that are prepared already into new chunks over the same arrays."""
    rows = s.execute(
        select(Chunk.array_sha256, Slice.id)
        .join(Chunk, Chunk.id == Slice.chunk_id)
        .where(Slice.job_id == job.id, again)
        .order_by(Slice.id)
    ).all()
    by_array: dict[str, list[int]] = {}
    for array_sha256, slice_id in rows:
        by_array.setdefault(array_sha256, []).append(slice_id)
    for array_sha256, slice_ids in by_array.items():
        s.execute(update(Slice).where(Slice.id.in_(slice_ids)).values(state=Outcome.OPEN, reason=None, detail=None))
        add_chunk(s, job.id, array_sha256, slice_ids)
    return len(rows)


def _reread(s: Session, job: Job, upload_ids: list[int]) -> int:
    """Forget the entries that were cancelled before they were read, so that their uploads are unpacked on."""
    if not upload_ids:
        return 0
    gone: Any = s.execute(
        delete(Slice).where(Slice.job_id == job.id, Slice.state == Outcome.CANCELLED, Slice.chunk_id.is_(None))
    )
    s.execute(
        update(Upload)
        .where(Upload.id.in_(upload_ids))
        .values(state=Work.READY, attempts=0, error=None, published_at=from_now())
    )
    return int(gone.rowcount)


def add_chunk(s: Session, job_id: str, array_sha256: str, slice_ids: list[int], *, suspect: bool = False) -> Chunk:
    """A new ready chunk of these slices, all rows of one array; its message goes out after the commit."""
    chunk = Chunk(job_id=job_id, size=len(slice_ids), array_sha256=array_sha256, suspect=suspect)
    s.add(chunk)
    s.flush()
    s.execute(update(Slice).where(Slice.id.in_(slice_ids)).values(chunk_id=chunk.id))
    broker.send_after_commit(s, broker.predict_hint(chunk.id))
    return chunk


def lose_chunk(s: Session, chunk: Chunk, reason: str) -> None:
    """A chunk's lease ran out, or its engine failed: halve it, so that one bad slice cannot hold the others.

    A single slice that is lost twice while it was predicted alone is quarantined. The caller has locked the job.
    """
    open_ids = list(
        s.scalars(select(Slice.id).where(Slice.chunk_id == chunk.id, Slice.state == Outcome.OPEN).order_by(Slice.id))
    )
    if chunk.job.cancel_requested_at is not None:
        close_slices(s, chunk.id, Outcome.CANCELLED)
        _end(s, chunk, Work.CANCELLED)
    elif len(open_ids) > 1:
        half = len(open_ids) // 2
        _end(s, chunk, Work.SPLIT)
        add_chunk(s, chunk.job_id, chunk.array_sha256, open_ids[:half], suspect=True)
        add_chunk(s, chunk.job_id, chunk.array_sha256, open_ids[half:], suspect=True)
    elif open_ids and (not chunk.suspect or chunk.losses == 0):
        losses = 1 if chunk.suspect else 0
        _end(s, chunk, Work.READY, suspect=True, losses=losses, closed_at=None, published_at=from_now())
        broker.send_after_commit(s, broker.predict_hint(chunk.id))
    else:
        close_slices(s, chunk.id, Outcome.QUARANTINED, reason)
        _end(s, chunk, Work.FAILED)


def fail_chunk(s: Session, claim: Claim, reason: str) -> None:
    """Its holder gives a chunk up as lost; nothing happens if someone else holds it by now."""
    chunk = s.get_one(Chunk, claim.id)
    job = lock_job(s, chunk.job_id)
    s.refresh(chunk)
    if chunk.epoch == claim.epoch:
        lose_chunk(s, chunk, reason)
        finish_if_done(s, job)


def quarantine_chunk(s: Session, claim: Claim, reason: str) -> None:
    """End a claimed chunk whose slices cannot be predicted. Raises StaleClaim."""
    job = lock_job(s, s.get_one(Chunk, claim.id).job_id)
    leases.close(s, Chunk, claim, Work.FAILED, closed_at=from_now())
    close_slices(s, claim.id, Outcome.QUARANTINED, reason)
    finish_if_done(s, job)


def _end(s: Session, chunk: Chunk, state: Work, **values: Any) -> None:
    # The epoch grows: whoever still works on the chunk finds its claim stale.
    base: dict[str, Any] = {"state": state, "epoch": Chunk.epoch + 1, "lease_until": None, "closed_at": from_now()}
    s.execute(update(Chunk).where(Chunk.id == chunk.id).values(base | values))
