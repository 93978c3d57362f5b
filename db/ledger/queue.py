"""Claims uploads and chunks in turn: by priority, then by the owner and the job that were served longest ago.

Other transactions lock a job first and then its uploads and chunks. A claim locks them in the opposite order. But a
claim does not wait for locked rows: it skips them. So a claim is never part of a deadlock.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.orm import Session

from db import broker
from db.broker import Queue
from db.clock import from_now
from db.ledger import leases
from db.ledger.completion import lock_job
from db.ledger.leases import Claim
from db.models import Chunk, Job, JobState, Upload, User
from db.series.rows import LOOSE
from db.settings import MIB

MOST_LOOSE_FILES, MOST_LOOSE_BYTES = 128, 64 * MIB  # at most so many are claimed together
MOST_PUT_OFFS = 2  # of a loose file that is read together with others, because a short outage puts all of them off


@dataclass
class _Turns:
    """The jobs and owners that were served within one claim. `write` records them in the tables, once at the end.

    `served`: the owner of each job that was served. `owners`, `jobs`: those that were served in the present round. When
    one of them is served for the second time, a new round begins.
    """

    served: dict[str, int] = field(default_factory=dict)
    owners: set[int] = field(default_factory=set)
    jobs: set[str] = field(default_factory=set)

    def order(self) -> tuple[Any, ...]:
        """Return the order of jobs: by priority, then the owner served longest ago, then the job served longest ago."""
        return (
            Job.priority.desc(),
            User.id.in_(self.owners),
            User.served_at.asc().nulls_first(),
            Job.id.in_(self.jobs),
            Job.served_at.asc().nulls_first(),
            Job.created_at,
        )

    def serve(self, job_id: str, owner_id: int) -> None:
        """Note that a job and its owner were served."""
        self.served[job_id] = owner_id
        self.owners = {owner_id} if owner_id in self.owners else self.owners | {owner_id}
        self.jobs = {job_id} if job_id in self.jobs else self.jobs | {job_id}

    def write(self, s: Session) -> None:
        """Write the served jobs and owners into the tables. Skip rows that another transaction has locked.

        Usually the other transaction claims work of the same job, or records results of this job.
        """
        jobs = s.scalars(leases.locked(select(Job.id).where(Job.id.in_(self.served)), s, of=Job)).all()
        started = {
            "state": case((Job.state == JobState.QUEUED, JobState.RUNNING), else_=Job.state),
            "started_at": func.coalesce(Job.started_at, from_now()),
        }
        s.execute(update(Job).where(Job.id.in_(jobs)).values(served_at=from_now(), **started))
        owners = s.scalars(leases.locked(select(User.id).where(User.id.in_(self.served.values())), s, of=User)).all()
        s.execute(update(User).where(User.id.in_(owners)).values(served_at=from_now()))


def claim_upload(s: Session, worker: str) -> Claim | None:
    """Claim the next upload, or return None."""
    turns = _Turns()
    query = (
        select(Upload.id, Job.id.label("job"), Job.owner_id)
        .join(Job, Job.id == Upload.job_id)
        .join(User, User.id == Job.owner_id)
        .where(leases.due(Upload))
        .order_by(*turns.order(), Upload.position)
        .limit(1)
    )
    row = s.execute(leases.locked(query, s, of=Upload)).first()
    if row is None or (claim := leases.take(s, Upload, row.id, worker)) is None:
        return None
    turns.serve(row.job, row.owner_id)
    turns.write(s)
    return claim


def claim_loose_files(s: Session, worker: str, first: Upload) -> list[tuple[Claim, Upload]]:
    """Claim loose files of the same job that can be read together with a claimed upload, in order.

    Return [] if the claimed upload is not a loose file. A file is left out if an earlier worker died while it read this
    file, or if it was put off several times. It may be the cause, so it is read alone.
    """
    if first.kind != LOOSE or first.entries != 1 or first.attempts != 1 or first.put_offs > MOST_PUT_OFFS:
        return []
    new = (Upload.kind == LOOSE, Upload.entries == 1, Upload.attempts == 0, Upload.put_offs <= MOST_PUT_OFFS)
    query = select(Upload).where(Upload.job_id == first.job_id, leases.due(Upload), *new).order_by(Upload.position)
    claimed: list[tuple[Claim, Upload]] = []
    room = MOST_LOOSE_BYTES - first.size
    for upload in s.scalars(leases.locked(query.limit(MOST_LOOSE_FILES - 1), s, of=Upload)).all():
        room -= upload.size
        if room < 0 or (claim := leases.take(s, Upload, upload.id, worker)) is None:
            break
        claimed.append((claim, upload))
    return claimed


def give_way(s: Session, claim: Claim, upload: Upload) -> bool:
    """Give back a claimed upload if another job of the same or a higher priority has a waiting upload.

    The job of the given-back upload then goes to the end of the queue. Return whether the upload was given back. Raises
    StaleClaim.
    """
    job = lock_job(s, upload.job_id)
    others = select(Upload.id).join(Job, Job.id == Upload.job_id).where(leases.due(Upload))
    others = others.where(Job.id != job.id, Job.priority >= job.priority)
    if s.scalar(others.limit(1)) is None:
        return False
    leases.give_back(s, Upload, claim, attempts=Upload.attempts - 1)
    turns = _Turns()
    turns.serve(job.id, job.owner_id)
    turns.write(s)
    broker.wake_after_commit(s, Queue.INGEST)
    return True


def is_any_chunk(s: Session, without: Collection[int] = (), *, suspects: bool = True) -> bool:
    """Return whether there is a chunk to claim. `without`, `suspects`: as for `claim_chunks`."""
    query = select(Chunk.id).where(leases.due(Chunk))
    if not suspects:
        query = query.where(Chunk.suspect.is_(False))
    if without:
        query = query.join(Job, Job.id == Chunk.job_id).where(Job.model_version_id.not_in(without))
    return s.scalar(query.limit(1)) is not None


def claim_chunks(
    s: Session, worker: str, slices: int, without: Collection[int] = (), *, suspects: bool = True
) -> list[tuple[Chunk, Claim]]:
    """Claim the next chunk, and then more chunks of the same model version as long as all fit into `slices`.

    So a hundred jobs of one slice take the engine as long as one job of a hundred slices. `without`: the ids of model
    versions whose chunks are left to other workers. `suspects`: also claim suspect chunks (suspected of killing their
    worker). A suspect chunk is claimed alone.
    """
    claimed: list[tuple[Chunk, Claim]] = []
    turns = _Turns()
    model_version_id: int | None = None
    room = slices
    while room > 0:
        query = (
            select(Chunk, Job.owner_id, Job.model_version_id)
            .join(Job, Job.id == Chunk.job_id)
            .join(User, User.id == Job.owner_id)
            .where(leases.due(Chunk))
            .order_by(*turns.order(), Chunk.id)
            .limit(1)
        )
        if model_version_id is not None:
            query = query.where(Job.model_version_id == model_version_id, Chunk.size <= room, Chunk.suspect.is_(False))
        if not suspects:
            query = query.where(Chunk.suspect.is_(False))
        if without:
            query = query.where(Job.model_version_id.not_in(without))
        row = s.execute(leases.locked(query, s, of=Chunk)).first()
        if row is None or (claim := leases.take(s, Chunk, row[0].id, worker)) is None:
            break
        chunk, owner_id, model_version_id = row
        turns.serve(chunk.job_id, owner_id)
        claimed.append((chunk, claim))
        room = 0 if chunk.suspect else room - chunk.size
    if claimed:
        turns.write(s)
    return claimed
