"""Changes chunks: adds them, splits them when their worker is lost, puts them off, fails and quarantines them."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from db import broker
from db.broker import Queue
from db.bulk import UNSEEN, one_of
from db.clock import from_now
from db.ledger import leases
from db.ledger.completion import finish_if_done, lock_job
from db.ledger.leases import Claim
from db.ledger.predictions import copy_known, open_slices
from db.models import Chunk, Job, Outcome, Slice, Work


def close_slices(s: Session, chunk_ids: Collection[int], outcome: Outcome, reason: str | None = None) -> None:
    """Give this outcome to the slices of chunks that have no outcome yet."""
    still_open = update(Slice).where(one_of(s, Slice.chunk_id, chunk_ids), Slice.state == Outcome.OPEN)
    s.execute(still_open.values(state=outcome, reason=reason))


def add_chunk(s: Session, job: Job, array_sha256: str, slice_ids: Sequence[int], *, suspect: bool = False) -> None:
    """Make a chunk of these open slices of one array, and wake an inference worker after the commit.

    Existing predictions of the same pixels are copied. If every slice has one, the chunk is done. If the job is
    cancelled, the chunk and its slices are cancelled too. The caller has locked the job.
    """
    chunk = new_chunk(s, job, array_sha256, len(slice_ids), suspect=suspect)
    s.execute(update(Slice).where(one_of(s, Slice.id, slice_ids)).values(chunk_id=chunk.id), execution_options=UNSEEN)
    offer_chunk(s, job, chunk)


def new_chunk(s: Session, job: Job, array_sha256: str, size: int, *, suspect: bool = False) -> Chunk:
    """Make a chunk without slices. When it has its slices, call `offer_chunk` in the same transaction."""
    chunk = Chunk(job_id=job.id, size=size, array_sha256=array_sha256, suspect=suspect)
    s.add(chunk)
    s.flush()
    return chunk


def offer_chunk(s: Session, job: Job, chunk: Chunk) -> None:
    """Wake an inference worker for a new chunk after the commit, as `add_chunk` does."""
    if job.cancel_requested_at is not None:
        close_slices(s, [chunk.id], Outcome.CANCELLED)
        _end(s, chunk, Work.CANCELLED)
        return
    copy_known(s, job, [chunk.id])
    if open_slices(s, chunk.id):
        broker.wake_after_commit(s, Queue.INFERENCE)
    else:
        _end(s, chunk, Work.DONE)


def lose_chunk(s: Session, chunk: Chunk, reason: str) -> None:
    """Halve a chunk whose lease expired or whose engine failed, so that one bad slice cannot block the others.

    A single slice is quarantined if it is lost twice while it is predicted alone. The caller has locked the job.
    """
    open_ids = list(open_slices(s, chunk.id))
    if chunk.job.cancel_requested_at is not None:
        close_slices(s, [chunk.id], Outcome.CANCELLED)
        _end(s, chunk, Work.CANCELLED)
    elif len(open_ids) > 1:
        half = len(open_ids) // 2
        _end(s, chunk, Work.SPLIT)
        add_chunk(s, chunk.job, chunk.array_sha256, open_ids[:half], suspect=True)
        add_chunk(s, chunk.job, chunk.array_sha256, open_ids[half:], suspect=True)
    elif open_ids and (not chunk.suspect or chunk.losses == 0):
        losses = 1 if chunk.suspect else 0
        _end(s, chunk, Work.READY, suspect=True, losses=losses, closed_at=None, published_at=from_now())
        broker.wake_after_commit(s, Queue.INFERENCE)
    else:
        close_slices(s, [chunk.id], Outcome.QUARANTINED, reason)
        _end(s, chunk, Work.FAILED)


def fail_chunk(s: Session, claim: Claim, reason: str) -> None:
    """Treat a claimed chunk as lost, because its worker gives it up. Do nothing if the claim is no longer valid.

    Raises StaleClaim if the job was deleted.
    """
    chunk = leases.claimed_row(s, Chunk, claim)
    job = lock_job(s, chunk.job_id)
    s.refresh(chunk)
    if (chunk.fence, chunk.token) == (claim.fence, claim.token):
        lose_chunk(s, chunk, reason)
        finish_if_done(s, job)


def put_off_chunk(s: Session, claim: Claim, *, is_attempt: bool = False) -> None:
    """Put off a claimed chunk, as `leases.put_off` does. If its job is cancelled, cancel it. Raises StaleClaim."""
    job = lock_job(s, leases.claimed_row(s, Chunk, claim).job_id)
    if job.cancel_requested_at is None:
        leases.put_off(s, Chunk, claim, is_attempt=is_attempt)
    else:
        _close(s, job, claim, Work.CANCELLED, Outcome.CANCELLED)


def quarantine_chunk(s: Session, claim: Claim, reason: str) -> None:
    """End a claimed chunk whose slices cannot be predicted. If its job is cancelled, cancel it. Raises StaleClaim."""
    job = lock_job(s, leases.claimed_row(s, Chunk, claim).job_id)
    if job.cancel_requested_at is None:
        _close(s, job, claim, Work.FAILED, Outcome.QUARANTINED, reason)
    else:
        _close(s, job, claim, Work.CANCELLED, Outcome.CANCELLED)


def _close(s: Session, job: Job, claim: Claim, state: Work, outcome: Outcome, reason: str | None = None) -> None:
    leases.close(s, Chunk, claim, state, closed_at=from_now())
    close_slices(s, [claim.id], outcome, reason)
    finish_if_done(s, job)


def _end(s: Session, chunk: Chunk, state: Work, **values: Any) -> None:
    # The fence grows, so the claim of anybody who still works on the chunk is stale.
    ended = {"state": state, "fence": Chunk.fence + 1, "lease_until": None, "closed_at": from_now()}
    s.execute(update(Chunk).where(Chunk.id == chunk.id).values(ended | values))
