"""What was received: one row for each file of a submission, which an ingest worker unpacks."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, from_now
from db.models.lease import LeaseMixin


class Upload(LeaseMixin, Base):
    """An archive or a loose image, stored whole under its SHA-256. `entries` is what its listing announces."""

    __tablename__ = "upload"
    __table_args__ = (UniqueConstraint("job_id", "position"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("job.id"), index=True)
    position: Mapped[int]
    filename: Mapped[str]
    sha256: Mapped[str] = mapped_column(index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    entries: Mapped[int]
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=from_now())
    closed_at: Mapped[datetime | None]
