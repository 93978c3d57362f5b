"""The columns of work that workers claim: its state and its lease. Work is uploads, chunks, datasets and others."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy.orm import Mapped, mapped_column

from db.clock import from_now


class Work(StrEnum):
    """The state of a piece of work. Only chunks can be `split`."""

    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SPLIT = "split"


OPEN_WORK = (Work.READY, Work.RUNNING)


class LeaseMixin:
    """The columns of a row that workers claim. If the message of a `ready` row is lost, the sweeper sends another.

    `fence`: a number that grows with each claim. A worker with an older fence can record nothing. `token`: random for
    each claim, because a database restored from a backup gives the same fences again. `attempts`: the claims since the
    last progress. `put_offs`: how often the row was put off since then because something was not available, which does
    not count as an attempt. `lease_until`: when the lease ends or, for a ready row, when it may be claimed again.
    `published_at`: when its message was last sent. `WHEN_QUEUED`: values of further columns for a row that goes back to
    the queue.
    """

    WHEN_QUEUED: ClassVar[Mapping[str, Any]] = {}

    state: Mapped[str] = mapped_column(default=Work.READY, index=True)
    fence: Mapped[int] = mapped_column(default=0)
    token: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=0)
    put_offs: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    published_at: Mapped[datetime] = mapped_column(default=from_now())
