"""Counts recent failed sign-ins, by name and by network.

A sign-in is counted when it begins, so that many guesses at the same time cannot pass a limit together. If the sign-in
succeeds, it is subtracted again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, delete, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.access.tokens import hash_of
from db.clock import from_now, moment
from db.models import SignInCount


@dataclass(frozen=True)
class Limit:
    """How many sign-ins may fail within `seconds`, counted from the first failure.

    `key`: the account, network or browser that is counted. Only its hash is stored.
    """

    key: str
    seconds: int
    failures: int


class TooManyFailures(Exception):
    """At least one limit is reached. `limit`: the reached limit that lasts longest. `seconds`: how long it lasts."""

    def __init__(self, limit: Limit, seconds: float) -> None:
        super().__init__(limit.key)
        self.limit = limit
        self.seconds = seconds


def count(s: Session, limits: Iterable[Limit]) -> None:
    """Count a sign-in that begins. Raises TooManyFailures. The transaction must then be rolled back."""
    now, closed = moment(s), []
    for limit in sorted(limits, key=lambda one: (one.key, one.seconds)):  # the same order each time prevents deadlocks
        counted, ends_at = _count_one(s, limit)
        if counted > limit.failures:
            closed.append(TooManyFailures(limit, (ends_at - now).total_seconds()))
    if closed:
        raise max(closed, key=lambda one: one.seconds)


def give_back(s: Session, limits: Iterable[Limit]) -> None:
    """Subtract a sign-in that succeeded from the counts."""
    for limit in sorted(limits, key=lambda one: (one.key, one.seconds)):
        row = (SignInCount.key_hash == hash_of(limit.key), SignInCount.seconds == limit.seconds)
        s.execute(update(SignInCount).where(*row, SignInCount.counted > 0).values(counted=SignInCount.counted - 1))


def forget_old(s: Session) -> None:
    """Remove counts whose time is over."""
    s.execute(delete(SignInCount).where(SignInCount.ends_at < from_now()))


def _count_one(s: Session, limit: Limit) -> tuple[int, datetime]:
    """Add one to a count, or restart it at one if its time is over. Return the count and the end of its time."""
    dialect: Any = postgresql if s.get_bind().dialect.name == "postgresql" else sqlite
    over, ends_at = SignInCount.ends_at < from_now(), from_now(limit.seconds)
    statement = (
        dialect.insert(SignInCount)
        .values(key_hash=hash_of(limit.key), seconds=limit.seconds, counted=1, ends_at=ends_at)
        .on_conflict_do_update(
            index_elements=[SignInCount.key_hash, SignInCount.seconds],
            set_={
                "counted": case((over, 1), else_=SignInCount.counted + 1),
                "ends_at": case((over, ends_at), else_=SignInCount.ends_at),
            },
        )
        .returning(SignInCount.counted, SignInCount.ends_at)
    )
    counted, ends = s.execute(statement).one()
    return counted, ends
