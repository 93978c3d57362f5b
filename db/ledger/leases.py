"""Claims, renews and ends leases on work, in the same way for every kind of row."""

import secrets
from dataclasses import dataclass
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import CursorResult, Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from db.bulk import one_of
from db.clock import from_now
from db.database import current
from db.models import OPEN_WORK, LeaseMixin, Work

FAR_SECONDS = 3600.0  # no lease ends so far in the future, and no work is put off for so long

L = TypeVar("L", bound=LeaseMixin)
Ts = TypeVarTuple("Ts")


class StaleClaim(Exception):
    """Another worker has claimed this work by now. Work under the old fence must not be recorded."""


@dataclass(frozen=True)
class Claim:
    """The right to work on one row until the lease ends. `fence` and `token` prove the right."""

    id: int
    fence: int
    token: str


def due(model: Any) -> Any:
    """Return the SQL condition that a row may be claimed: it is ready, and is not put off until later.

    A row whose lease has run out cannot be claimed until the sweeper frees it (`free_expired`). Only the sweeper knows
    of pauses in which no worker could renew its lease.
    """
    return and_(model.state == Work.READY, or_(model.lease_until.is_(None), _is_over(model)))


def lapsed(model: Any) -> Any:
    """Return the SQL condition that a row's lease has run out."""
    return and_(model.state == Work.RUNNING, _is_over(model))


def _is_over(model: Any) -> Any:
    """Return the SQL condition that `lease_until` is past, or was set before the database's clock was set back."""
    settings = current()
    far = max(FAR_SECONDS, 2 * settings.lease_seconds, 2 * settings.resend_seconds)
    return or_(model.lease_until <= from_now(), model.lease_until > from_now(far))


def locked(query: Select[*Ts], session: Session, of: Any) -> Select[*Ts]:
    """Return the query with locks on its rows. It skips rows that another transaction has locked.

    Rows that refer to the locked rows can still be added. SQLite needs no locks, because its writers queue at BEGIN.
    """
    if session.get_bind().dialect.name == "postgresql":
        return query.with_for_update(skip_locked=True, key_share=True, of=of)
    return query


def claimed_row(session: Session, model: type[L], claim: Claim) -> L:
    """Return the row of a claim. Raises StaleClaim if the row was removed with its job."""
    row = session.get(model, claim.id)
    if row is None:
        raise StaleClaim(f"{model.__tablename__} {claim.id} was removed")  # type: ignore[attr-defined]
    return row


def take(session: Session, model: type[L], row_id: int, worker: str) -> Claim | None:
    """Claim this row if it is due. Return None if another worker was quicker."""
    table: Any = model
    token = secrets.token_hex(8)
    fence = session.scalar(
        update(table)
        .where(table.id == row_id, due(table))
        .values(
            state=Work.RUNNING,
            fence=table.fence + 1,
            token=token,
            attempts=table.attempts + 1,
            lease_until=from_now(current().lease_seconds),
            worker=worker,
        )
        .returning(table.fence)
    )
    return None if fence is None else Claim(row_id, fence, token)


def _mine(table: Any, claim: Claim) -> Any:
    mine = table.id == claim.id, table.fence == claim.fence, table.token == claim.token
    return and_(*mine, table.state == Work.RUNNING)


def is_held(session: Session, model: type[L], claim: Claim) -> bool:
    """Return whether this claim still has its lease. The lease can expire at any time, so recording checks again."""
    table: Any = model
    return session.scalar(select(table.id).where(_mine(table, claim))) is not None


def keep(session: Session, model: type[L], claim: Claim) -> bool:
    """Renew the lease. Return False if the claim has lost it."""
    table: Any = model
    result: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        update(table).where(_mine(table, claim)).values(lease_until=from_now(current().lease_seconds))
    )
    return result.rowcount == 1


def close(session: Session, model: type[L], claim: Claim, state: Work, **values: Any) -> None:
    """End the work under this claim, in the caller's transaction. Raises StaleClaim."""
    table: Any = model
    result: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        update(table).where(_mine(table, claim)).values({"state": state, "lease_until": None} | values)
    )
    if result.rowcount != 1:
        raise StaleClaim(f"{table.__tablename__} {claim.id}, fence {claim.fence}")


def give_back(session: Session, model: type[L], claim: Claim, **values: Any) -> None:
    """Give the work back to the queue. The sweeper sends its message again."""
    close(session, model, claim, Work.READY, published_at=from_now(), **{**model.WHEN_QUEUED, **values})


def put_off(session: Session, model: type[L], claim: Claim, *, is_attempt: bool = False, **values: Any) -> None:
    """Put off the work, because something that it needs is not available.

    The work cannot be claimed again until `resend_seconds` have passed. Without this pause, the work would fail a
    hundred times during a fault of one minute. `is_attempt`: count this as an attempt, because the work itself may be
    at fault. Raises StaleClaim.
    """
    table: Any = model
    values |= {"put_offs": table.put_offs + 1, "lease_until": from_now(current().resend_seconds)}
    give_back(session, model, claim, **values if is_attempt else values | {"attempts": table.attempts - 1})


def count_put_offs(session: Session) -> dict[str, int]:
    """Return how often open work was put off since its last progress, by table."""
    counts = {}
    for model in LeaseMixin.__subclasses__():
        table: Any = model
        query = select(func.coalesce(func.sum(table.put_offs), 0)).where(table.state.in_(OPEN_WORK))
        counts[table.__tablename__] = int(session.scalar(query) or 0)
    return counts


def expired(session: Session, model: type[L]) -> list[int]:
    """Return the ids of the rows whose lease has run out."""
    table: Any = model
    return list(session.scalars(select(table.id).where(lapsed(table))))


def free_expired(session: Session, model: type[L], row_id: int | None = None) -> list[int]:
    """Make the rows ready whose lease has run out, and return their ids. Their messages can be sent at once.

    With a row's id, look at this row only.
    """
    table: Any = model
    expired = select(table.id).where(lapsed(table))
    if row_id is not None:
        expired = expired.where(table.id == row_id)
    ids = list(session.scalars(locked(expired, session, of=table)))
    freed = {"state": Work.READY, "lease_until": None, "published_at": from_now(-2 * current().resend_seconds)}
    session.execute(update(table).where(one_of(session, table.id, ids)).values(**model.WHEN_QUEUED, **freed))
    return ids


def unsent(session: Session, model: type[L]) -> list[int]:
    """Return the ids of rows that have been ready so long that their message may be lost, oldest first.

    A message that was sent in the future was sent before the database's clock was set back, so it may be lost too.
    """
    table: Any = model
    sent, resend = table.published_at, current().resend_seconds
    query = select(table.id).where(table.state == Work.READY, or_(sent < from_now(-resend), sent > from_now(resend)))
    return list(session.scalars(query.order_by(sent)))


def mark_sent(session: Session, model: type[L], ids: list[int]) -> None:
    """Note that the messages of these rows were sent again now. Skip rows that are being claimed."""
    table: Any = model
    free = session.scalars(locked(select(table.id).where(one_of(session, table.id, ids)), session, of=table)).all()
    session.execute(update(table).where(one_of(session, table.id, free)).values(published_at=from_now()))
