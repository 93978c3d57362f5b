"""Records what each request with an Idempotency-Key made, so that a repeated request makes nothing new."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.database import lock_row
from db.models import RequestKey, User


class IdempotencyConflict(Exception):
    """This Idempotency-Key was used before, with another request."""


@dataclass(frozen=True)
class KeyedRequest:
    """A user's request with a key. `kind`: what the request makes. `digest`: the SHA-256 of all its values, as hex."""

    user_id: int
    key: str
    kind: str
    digest: str


def made_before(s: Session, request: KeyedRequest) -> int | None:
    """Return the id of what this request made before, or None.

    Other requests of this user that carry a key wait until the transaction ends.

    Raises IdempotencyConflict.
    """
    lock_row(s, User, request.user_id)
    row = s.scalar(select(RequestKey).where(RequestKey.user_id == request.user_id, RequestKey.key == request.key))
    if row is None:
        return None
    if (row.kind, row.request_hash) != (request.kind, request.digest):
        raise IdempotencyConflict("this Idempotency-Key was used before with another request")
    return row.made_id


def remember(s: Session, request: KeyedRequest, made_id: int) -> None:
    """Record the id of what the request made. Call this in the same transaction, after `made_before`."""
    s.add(
        RequestKey(
            user_id=request.user_id,
            key=request.key,
            kind=request.kind,
            request_hash=request.digest,
            made_id=made_id,
        )
    )
