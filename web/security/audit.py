"""Names the actor of a request for the audit trail, and records what people only look at."""

import logging
import time

from flask import Flask, Response, g, request
from sqlalchemy.exc import OperationalError

from db.access import audit
from db.access.audit import Action, Actor
from db.database import session_scope
from web.security.auth import current_user
from web.security.proxies import address_text

log = logging.getLogger(__name__)

PAUSE_SECONDS = 3600  # an open page requests the same again and again, and is recorded once in this time
TRY_AGAIN_SECONDS = 60  # after an event that could not be written
MOST_KEPT = 10_000

_due: dict[tuple[str, ...], float] = {}  # when the same event is recorded again


def install(app: Flask) -> None:
    """Let each request name its own actor, and record what it noted once its answer is known."""
    app.before_request(lambda: audit.act_as(actor))
    app.teardown_request(lambda _: audit.act_as(None))
    app.after_request(_record_noted)


def actor() -> Actor:
    """Return who acts by this request."""
    user = current_user()
    return Actor(user.name if user else None, g.get("via", ""), address_text())


def note_look(object_: str) -> None:
    """Record that the user of this request opened something, unless the answer is an error.

    Each web process records it once an hour for each user, token and address.
    """
    g.opened = object_


def note_refusal(object_: str) -> None:
    """Record that this request was refused, as often as `note_look` does."""
    g.refused = object_


def record_export(action: Action, object_: str, detail: str) -> None:
    """Record an export before it is sent. Raises OperationalError: the database cannot be written to."""
    if request.method == "GET":
        with session_scope() as s:
            audit.record(s, action, object_, detail)
        g.pop("opened", None)


def _record_noted(response: Response) -> Response:
    if refused := g.pop("refused", None):
        _record_once(Action.REFUSED, refused, f"{request.method} {request.url_rule}")
    if (opened := g.pop("opened", None)) and response.status_code < 400:
        _record_once(Action.JOB_OPEN, opened, "")
    return response


def _record_once(action: Action, object_: str, detail: str) -> None:
    who = actor()
    key, now = (who.name or "", who.via, who.address or "", action, object_, detail), time.monotonic()
    if now < _due.get(key, now):
        return
    if len(_due) >= MOST_KEPT:
        _due.clear()
    _due[key] = now + PAUSE_SECONDS
    try:
        with session_scope(patient=False) as s:
            audit.record(s, action, object_, detail, actor=who)
    except OperationalError as error:  # people can still read pages on a full disk, and while a long job is written
        _due[key] = now + TRY_AGAIN_SECONDS
        facts = {"action": action, "object": object_, "error": type(error.orig).__name__}
        log.warning("not recorded in the audit trail", extra=facts)
