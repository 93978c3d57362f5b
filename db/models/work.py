"""The lease that all shared work carries: its holder, its end and its fence."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy.orm import Mapped, mapped_column

from db.clock import from_now


class Work(StrEnum):
    """The state of a piece of leased work (an upload to unpack, a chunk to predict, a training run)."""

    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SPLIT = "split"


OPEN_WORK = (Work.READY, Work.RUNNING)


class LeaseMixin:
    """A `ready` row is its own outbox: its message may be lost, and the sweeper sends it again.

    `fence`: a number that grows with each claim; records under an older one are refused. `attempts`: claims since the
    last progress. `lease_until`: the end of the lease; of a ready row, the time until which it was put off.
    """

    state: Mapped[str] = mapped_column(default=Work.READY, index=True)
    fence: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    published_at: Mapped[datetime] = mapped_column(default=from_now())
