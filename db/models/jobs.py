"""Jobs (submissions), their uploads (received files) and their chunks (slices that are claimed together)."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, Select, UniqueConstraint, select
from sqlalchemy.orm import Mapped, mapped_column, relationship

from db.clock import from_now
from db.models.accounts import User
from db.models.base import FILE, NO_FILE, Base
from db.models.documents import DocumentType, JobTally
from db.models.registry import ModelVersion
from db.models.work import LeaseMixin


class JobState(StrEnum):
    """The state of a job. It is `queued` until a worker claims it. `finished`, `cancelled` and `failed` are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


OPEN_JOB = (JobState.QUEUED, JobState.RUNNING)


class Job(Base):
    """One submission. It keeps the model version that was the champion when it was created.

    `tally`: the sums over the job's rows, stored when the job ends. While the job is open, the rows are counted.
    `retried_at`: when the job was last opened again after its end. `deleted_at`: when somebody deleted the job. From
    then on, nobody sees it, and the sweeper removes its rows.
    """

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("owner_id", "idempotency_key"),
        Index("ix_job_owner_created", "owner_id", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"))
    name: Mapped[str]
    priority: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(default=JobState.QUEUED, index=True)
    error: Mapped[str | None]
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    recipe: Mapped[str]
    idempotency_key: Mapped[str | None]
    request_hash: Mapped[str] = mapped_column(info=NO_FILE)
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    started_at: Mapped[datetime | None]
    unpacked_at: Mapped[datetime | None]
    first_result_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    retried_at: Mapped[datetime | None]
    served_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None] = mapped_column(index=True)
    tally: Mapped[JobTally | None] = mapped_column(DocumentType(JobTally), info=NO_FILE)

    owner: Mapped[User] = relationship(lazy="joined")
    model_version: Mapped[ModelVersion] = relationship(lazy="joined")


def deleted_jobs() -> Select[str]:
    """Return the query of the ids of deleted jobs, for statements that read rows of all jobs."""
    return select(Job.id).where(Job.deleted_at.is_not(None))


class Chunk(LeaseMixin, Base):
    """Up to a few hundred prepared slices. They are rows of the file `array_sha256`, uint8[n, 224, 224] as .npy.

    If the lease is lost, the chunk is split, and both halves use the same file. The halves are `suspect`: each is
    claimed alone, so that a bad slice does not affect other slices. `losses`: how many leases of a single suspect slice
    ran out.
    """

    __tablename__ = "chunk"
    __table_args__ = (Index("ix_chunk_job_state", "job_id", "state"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"))
    size: Mapped[int]
    array_sha256: Mapped[str] = mapped_column(index=True, info=FILE)
    suspect: Mapped[bool] = mapped_column(default=False)
    losses: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    closed_at: Mapped[datetime | None]

    job: Mapped[Job] = relationship()


class Upload(LeaseMixin, Base):
    """An archive or a loose image, which is stored under its SHA-256.

    `entries`: how many files its listing announces, or None if this is not known before unpacking. `decode_seconds`:
    processor time for decoding the files since the last retry. `decode_failures`: files that crashed a decoder or used
    up its time since then. Both are 0 for a loose file that was read together with others. `dicomdirs`: files named
    DICOMDIR, which get no row.
    """

    __tablename__ = "upload"
    __table_args__ = (UniqueConstraint("job_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), index=True)
    position: Mapped[int]
    filename: Mapped[str]
    sha256: Mapped[str] = mapped_column(index=True, info=FILE)
    size: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    entries: Mapped[int | None]
    decode_seconds: Mapped[float] = mapped_column(default=0.0)
    decode_failures: Mapped[int] = mapped_column(default=0)
    dicomdirs: Mapped[int] = mapped_column(default=0)
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    closed_at: Mapped[datetime | None]
