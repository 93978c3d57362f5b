"""The audit trail: who did what, and when."""

from datetime import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from db.clock import from_now
from db.models.base import NO_FILE, Base
from db.models.slices import BigId


class AuditSeal(Base):
    """A seal over some events. `digest` also covers the digest of the seal before, so that no seal can be left out.

    `events`: how many events it covers.
    """

    __tablename__ = "audit_seal"

    id: Mapped[int] = mapped_column(primary_key=True)
    events: Mapped[int]
    digest: Mapped[str] = mapped_column(info=NO_FILE)
    sealed_at: Mapped[datetime] = mapped_column(default=from_now())


class AuditEvent(Base):
    """Something that somebody did, or was not allowed to do. It holds no name of a file, a job or a patient.

    `actor`: the name of the user, or None if nobody is known. `via`: how the actor signed in. `address`: the IP address
    of the client, or None. `object`: the kind and the id or label of what was acted on, for example `job ab12`.
    `seal_id`: None until the sweeper has sealed the event.
    """

    __tablename__ = "audit_event"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime] = mapped_column(default=from_now(), index=True)
    actor: Mapped[str | None] = mapped_column(index=True)
    via: Mapped[str]
    address: Mapped[str | None]
    action: Mapped[str]
    object: Mapped[str] = mapped_column(index=True)
    detail: Mapped[str]
    seal_id: Mapped[int | None] = mapped_column(ForeignKey("audit_seal.id"), index=True)
