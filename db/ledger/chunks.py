"""What can happen to a chunk: added, split when its worker is lost, failed, quarantined."""

from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import broker
from db.broker import Queue
from db.clock import from_now
from db.ledger import leases
from db.ledger.completion import finish_if_done, lock_job
from db.ledger.leases import Claim
from db.models import Chunk, Outcome, Slice, Work


def close_slices(s: Session, chunk_id: int, outcome: Outcome, reason: str | None = None) -> int:
    """Give the slices of a chunk that have no outcome yet this one; how many."""
    result: Any = s.execute(
        update(Slice)
        .where(Slice.chunk_id == chunk_id, Slice.state == Outcome.OPEN)
        .values(state=outcome, reason=reason)
    )
    return int(result.rowcount)


def add_chunk(s: Session, job_id: str, array_sha256: str, slice_ids: list[int], *, suspect: bool = False) -> Chunk:
    """A new ready chunk of these slices, all rows of one array; its message goes out after the commit."""
    chunk = Chunk(job_id=job_id, size=len(slice_ids), array_sha256=array_sha256, suspect=suspect)
    s.add(chunk)
    s.flush()
    s.execute(update(Slice).where(Slice.id.in_(slice_ids)).values(chunk_id=chunk.id))
    broker.wake_after_commit(s, Queue.INFERENCE)
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
        broker.wake_after_commit(s, Queue.INFERENCE)
    else:
        close_slices(s, chunk.id, Outcome.QUARANTINED, reason)
        _end(s, chunk, Work.FAILED)


def fail_chunk(s: Session, claim: Claim, reason: str) -> None:
    """Its holder gives a chunk up as lost; nothing happens if someone else holds it by now."""
    chunk = s.get_one(Chunk, claim.id)
    job = lock_job(s, chunk.job_id)
    s.refresh(chunk)
    if chunk.fence == claim.fence:
        lose_chunk(s, chunk, reason)
        finish_if_done(s, job)


def quarantine_chunk(s: Session, claim: Claim, reason: str) -> None:
    """End a claimed chunk whose slices cannot be predicted. Raises StaleClaim."""
    job = lock_job(s, s.get_one(Chunk, claim.id).job_id)
    leases.close(s, Chunk, claim, Work.FAILED, closed_at=from_now())
    close_slices(s, claim.id, Outcome.QUARANTINED, reason)
    finish_if_done(s, job)


def _end(s: Session, chunk: Chunk, state: Work, **values: Any) -> None:
    # The fence grows: whoever still works on the chunk finds its claim stale.
    base: dict[str, Any] = {"state": state, "fence": Chunk.fence + 1, "lease_until": None, "closed_at": from_now()}
    s.execute(update(Chunk).where(Chunk.id == chunk.id).values(base | values))
