"""Claims uploads and chunks in turn: by priority, then by the owner and the job that were served longest ago."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.ledger import leases
from db.ledger.leases import Claim
from db.models import Chunk, Job, JobState, Upload, User


def _turn() -> tuple[Any, ...]:
    """Return the order: priority, then the owner served longest ago, then their job served longest ago."""
    return (
        Job.priority.desc(),
        User.served_at.asc().nulls_first(),
        Job.served_at.asc().nulls_first(),
        Job.created_at,
    )


def claim_upload(s: Session, worker: str) -> Claim | None:
    """Claim the upload whose turn it is, or return None."""
    query = (
        select(Upload.id, Job.id.label("job"))
        .join(Job, Job.id == Upload.job_id)
        .join(User, User.id == Job.owner_id)
        .where(leases.claimable(Upload))
        .order_by(*_turn(), Upload.position)
        .limit(1)
    )
    row = s.execute(leases.locked(query, s, of=Upload)).first()
    if row is None or (claim := leases.take(s, Upload, row.id, worker)) is None:
        return None
    _served(s, row.job)
    return claim


def claim_chunks(s: Session, worker: str, slices: int, without: Collection[int] = ()) -> list[tuple[Chunk, Claim]]:
    """Claim the chunk whose turn it is, and more of the same model version until they hold `slices`.

    So a hundred jobs of one slice take the engine as long as one job of a hundred slices. Chunks of the model versions
    `without` are left to other workers.
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
    """Note that this job and its owner had their turn, and return the job's model version."""
    job = s.get_one(Job, job_id)
    if job.state == JobState.QUEUED:
        s.execute(update(Job).where(Job.id == job_id).values(state=JobState.RUNNING, started_at=from_now()))
    s.execute(update(Job).where(Job.id == job_id).values(served_at=from_now()))
    s.execute(update(User).where(User.id == job.owner_id).values(served_at=from_now()))
    return job.model_version_id
