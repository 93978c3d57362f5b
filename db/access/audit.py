"""The audit trail. An event is written in the same transaction as what it states.

A process names its actor once by `act_as`. The functions that change something call `record`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from db.bulk import one_of
from db.database import lock_table
from db.models import AuditEvent, AuditSeal
from db.paging import BadCursor, Page, decode, encode

WITH_SLICES = "with pictures of slices"
"""The detail of an export of a model."""

MOST_SEALED = 1000  # events that one transaction seals, so that it holds the write lock of SQLite only briefly


class Action(StrEnum):
    """What an event states."""

    SIGN_IN = "session.start"
    SIGN_IN_REFUSED = "session.refused"
    SIGN_OUT = "session.end"
    REFUSED = "access.refused"
    USER_ADD = "user.add"
    USER_DISABLE = "user.disable"
    USER_ENABLE = "user.enable"
    USER_ROLE = "user.role"
    USER_PASSWORD = "user.password"  # noqa: S105  (not a password)
    USER_LINK = "user.link"
    TOKEN_MAKE = "token.make"  # noqa: S105  (not a password)
    TOKEN_REVOKE = "token.revoke"  # noqa: S105  (not a password)
    JOB_SUBMIT = "job.submit"
    JOB_OPEN = "job.open"
    JOB_EXPORT = "job.export"
    JOB_CANCEL = "job.cancel"
    JOB_RETRY = "job.retry"
    JOB_DELETE = "job.delete"
    LABEL_SET = "label.set"
    LABEL_REMOVE = "label.remove"
    DATASET_ADD = "dataset.add"
    DATASET_SPLIT = "dataset.split"
    DATASET_DELETE = "dataset.delete"
    RUN_LAUNCH = "run.launch"
    RUN_CANCEL = "run.cancel"
    RUN_STOP = "run.stop"
    MODEL_IMPORT = "model.import"
    MODEL_EXPORT = "model.export"
    MODEL_CHECK = "model.check"
    MODEL_COMPARE = "model.compare"
    MODEL_PROMOTE = "model.promote"
    MODEL_ROLL_BACK = "model.roll-back"
    MODEL_TUNE = "model.tune"


@dataclass(frozen=True)
class Actor:
    """Who acts. `name`: of the user, or None. `via`: how they are signed in. `address`: the client's IP, or None."""

    name: str | None
    via: str
    address: str | None = None


_WORKER = Actor(None, "a worker")
_actor: ContextVar[Callable[[], Actor] | None] = ContextVar("actor", default=None)


def act_as(find: Callable[[], Actor] | None) -> None:
    """Let `find` name the actor of all events that this thread records from now on. None means a worker."""
    _actor.set(find)


def record(s: Session, action: Action, object: str = "", detail: str = "", *, actor: Actor | None = None) -> None:
    """Add an event to this transaction. `object` and `detail` must hold no name of a file, a job or a patient.

    `actor`: who acts, if it is not the one that `act_as` names.
    """
    find = _actor.get()
    who = actor or (find() if find else _WORKER)
    s.add(AuditEvent(actor=who.name, via=who.via, address=who.address, action=action, object=object, detail=detail))


@dataclass(frozen=True)
class Filter:
    """Which events to list. An empty text, and None, match all events.

    `actor`: the name of a user, or how the actor acted (`via`), for example `root at the command line`. `action`:
    without its second part, such as `job`, it matches all actions on jobs. `since`, `until`: the first time, and the
    first time after the last.
    """

    actor: str = ""
    action: str = ""
    object: str = ""
    since: datetime | None = None
    until: datetime | None = None


def list_events(s: Session, wanted: Filter, cursor: str | None, limit: int) -> Page[AuditEvent]:
    """Return a page of the trail, newest first. Raises BadCursor."""
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit + 1)
    if wanted.actor:
        query = query.where(or_(AuditEvent.actor == wanted.actor, AuditEvent.via == wanted.actor))
    if wanted.action:
        of_kind = AuditEvent.action.startswith(f"{wanted.action}.", autoescape=True)
        query = query.where(or_(AuditEvent.action == wanted.action, of_kind))
    if wanted.object:
        query = query.where(AuditEvent.object == wanted.object)
    if wanted.since is not None:
        query = query.where(AuditEvent.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(AuditEvent.at < wanted.until)
    if cursor is not None:
        (before,) = decode(cursor, int)
        if before <= 0:
            raise BadCursor("not a cursor of this server")
        query = query.where(AuditEvent.id < before)
    rows = list(s.scalars(query))
    return Page(rows[:limit], encode(rows[limit - 1].id) if len(rows) > limit else None)


def seal(s: Session) -> AuditSeal | None:
    """Seal at most MOST_SEALED events that are not sealed yet. Return the seal, or None if all events are sealed.

    The caller logs the digest, so that a log on another machine shows if somebody changed sealed events later.
    """
    if s.scalar(select(AuditEvent.id).where(AuditEvent.seal_id.is_(None)).limit(1)) is None:
        return None
    lock_table(s, AuditSeal)  # another sweeper may be sealing
    open_events = select(AuditEvent).where(AuditEvent.seal_id.is_(None)).order_by(AuditEvent.id).limit(MOST_SEALED)
    events = list(s.scalars(open_events))
    if not events:
        return None
    before = s.scalar(select(AuditSeal.digest).order_by(AuditSeal.id.desc()).limit(1))
    made = AuditSeal(events=len(events), digest=_digest(before or "", events))
    s.add(made)
    s.flush()
    ids = [event.id for event in events]
    s.execute(update(AuditEvent).where(one_of(s, AuditEvent.id, ids)).values(seal_id=made.id))
    return made


def _digest(before: str, events: list[AuditEvent]) -> str:
    """Return the SHA-256 over the digest of the seal before and over the events, as hex."""
    digest = hashlib.sha256(before.encode())
    for event in events:
        line = [event.id, event.at.isoformat(), event.actor, event.via, event.address]
        line += [event.action, event.object, event.detail]
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


@dataclass(frozen=True)
class Verified:
    """The result of checking all seals. `broken`: the id of the first seal that does not match, or None.

    `seals`, `events`: how many match. `unsealed`: how many events have no seal yet. `last`, `digest`: the id and the
    digest of the last seal.
    """

    seals: int
    events: int
    unsealed: int
    last: int | None
    digest: str | None
    broken: int | None


def verify(s: Session, logged: Mapping[int, str] | None = None) -> Verified:
    """Calculate the digest of each seal anew, in order, and compare it with the stored digest.

    `logged`: digests by the id of their seal, from the log of a sweeper. They must be stored too.
    """
    unsealed = s.scalar(select(func.count()).select_from(AuditEvent).where(AuditEvent.seal_id.is_(None))) or 0
    missing = dict(logged or {})
    seals, count, last, before = 0, 0, None, ""
    for made in s.scalars(select(AuditSeal).order_by(AuditSeal.id).execution_options(yield_per=1000)):
        events = list(s.scalars(select(AuditEvent).where(AuditEvent.seal_id == made.id).order_by(AuditEvent.id)))
        is_logged = missing.pop(made.id, made.digest) == made.digest
        if not is_logged or len(events) != made.events or _digest(before, events) != made.digest:
            return Verified(seals, count, unsealed, last, before or None, made.id)
        s.expunge_all()
        seals, count, last, before = seals + 1, count + len(events), made.id, made.digest
    return Verified(seals, count, unsealed, last, before or None, min(missing, default=None))
