"""Counts waiting work, and checks that workers and the sweeper run."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.database import current
from db.ledger.leases import due, lapsed
from db.models import Chunk, Dataset, Evaluation, Installation, LeaseMixin, TrainingRun, Upload, Work

KINDS: dict[str, type[LeaseMixin]] = {
    "upload": Upload,
    "chunk": Chunk,
    "dataset": Dataset,
    "training_run": TrainingRun,
    "evaluation": Evaluation,
}
PATIENCE_SECONDS = 300.0  # if work waits longer, and no work of its kind is running, no worker serves this kind
SWEEPS = 6  # a sweeper that has not swept for so many intervals counts as hung


@dataclass(frozen=True)
class Backlog:
    """The open work of one kind.

    `ready`: rows that may be claimed now. `oldest_seconds`: the longest time since the message for a ready row was
    sent, or 0 if no row is ready. `running`: rows with a valid lease. `expired`: rows whose lease ran out.
    """

    ready: int
    oldest_seconds: float
    running: int
    expired: int


def backlog(s: Session, kind: type[LeaseMixin]) -> Backlog:
    """Return the open work of a kind."""
    table: Any = kind
    now = s.scalars(select(from_now())).one()
    ready, oldest = s.execute(select(func.count(), func.min(table.published_at)).where(due(table))).one()
    claimed = s.scalars(select(func.count()).where(table.state == Work.RUNNING)).one()
    expired = s.scalars(select(func.count()).where(lapsed(table))).one()
    return Backlog(ready, (now - oldest).total_seconds() if oldest else 0.0, claimed - expired, expired)


def record_sweep(s: Session) -> None:
    """Note that a sweep ended now."""
    s.execute(update(Installation).values(swept_at=from_now()))


def seconds_since_sweep(s: Session) -> float | None:
    """Return the seconds since the last sweep ended, or None if none has ended yet."""
    now, swept_at = s.execute(select(from_now(), Installation.swept_at)).one()
    return (now - swept_at).total_seconds() if swept_at else None


def is_worked_on(s: Session) -> bool:
    """Return whether a sweeper runs, and no kind of work has waited long without running."""
    since = seconds_since_sweep(s)
    if since is None or since > SWEEPS * max(current().sweep_seconds, 10):
        return False
    return all(
        found.running or found.oldest_seconds < PATIENCE_SECONDS
        for found in (backlog(s, kind) for kind in KINDS.values())
    )
