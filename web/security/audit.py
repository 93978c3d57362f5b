"""Names the actor of a request for the audit trail, and records what people only look at."""

import logging
import time

from flask import Flask, Response, g, request
from sqlalchemy.exc import OperationalError

from db.access import audit
from db.access.audit import Action, Actor
from db.database import session_scope
from web.security.auth import current_user
from web.security.proxies import client_address

log = logging.getLogger(__name__)

PAUSE_SECONDS = 3600  # an open page requests the same again and again, and is recorded once in this time
MOST_KEPT = 10_000

_recorded: dict[tuple[str, ...], float] = {}


def install(app: Flask) -> None:
    """Let each request name its own actor, and record what it noted once its answer is known."""
    app.before_request(lambda: audit.act_as(actor))
    app.teardown_request(lambda _: audit.act_as(None))
    app.after_request(_record_noted)


def actor() -> Actor:
    """Return who acts by this request."""
    user, address = current_user(), client_address()
    return Actor(user.name if user else None, g.get("via", ""), str(address) if address else None)


def note_look(object_: str) -> None:
    """Record that the user of this request opened something, if the answer is no error.

    Each web process records it once an hour for each user.
    """
    g.opened = object_


def note_export(action: Action, object_: str, detail: str) -> None:
    """Record each export that is answered without an error."""
    g.exported = (action, object_, detail)


def note_refusal(object_: str) -> None:
    """Record that the user of this request was not allowed to see or do something, once an hour."""
    g.refused = object_


def _record_noted(response: Response) -> Response:
    if refused := g.pop("refused", None):
        _record_once(Action.REFUSED, refused, f"{request.method} {request.url_rule}")
    exported, opened = g.pop("exported", None), g.pop("opened", None)
    if response.status_code < 400:
        if exported:
            _record(actor(), *exported)
        elif opened:
            _record_once(Action.JOB_OPEN, opened, "")
    return response


def _record_once(action: Action, object_: str, detail: str) -> None:
    who = actor()
    key, now = (who.name or "", who.via, action, object_, detail), time.monotonic()
    if now - _recorded.get(key, -PAUSE_SECONDS) < PAUSE_SECONDS:
        return
    if _record(who, action, object_, detail):
        if len(_recorded) >= MOST_KEPT:
            _recorded.clear()
        _recorded[key] = now


def _record(who: Actor, action: Action, object_: str, detail: str) -> bool:
    try:
        with session_scope() as s:
            audit.record(s, action, object_, detail, actor=who)
    except OperationalError as error:  # on a full disk, people can still read pages
        facts = {"action": action, "object": object_, "error": type(error.orig).__name__}
        log.warning("not recorded in the audit trail", extra=facts)
        return False
    return True
