"""Finds the user of a request, by a bearer token or by the session of a browser."""

import logging
from datetime import timedelta
from inspect import signature
from urllib.parse import urlsplit

from apiflask import APIBlueprint
from flask import after_this_request, current_app, g, request, session
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from wtforms.validators import ValidationError

from db.access import accounts, tokens
from db.access.audit import Action, Actor, record
from db.database import read_scope, session_scope
from db.models import User
from web.errors import Problem, not_signed_in
from web.security import known_devices
from web.security.csrf import check_token
from web.security.proxies import address_text

log = logging.getLogger(__name__)

SESSION_LIFE = timedelta(hours=12)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
SHOWN_ADMINS = 3
POLL = "poll"
"""The parameter of addresses that an open page requests without a person. Such requests keep no session alive."""

_SESSION_KEY = "token"


def current_user() -> User | None:
    """Return the user of this request, or None if nobody is signed in. The user is looked up only once.

    If there is an `Authorization: Bearer` header, only this header decides. If the token is not valid, nobody is
    signed in, whatever the cookie says. Other schemes are ignored, because they are for a proxy in front of ctbatch.
    """
    if "user" not in g:
        g.user = _find_user()
    user: User | None = g.user
    return user


def _find_user() -> User | None:
    secret = request_secret()
    if not secret:
        return None
    with read_scope() as s:
        known = tokens.signed_in(s, secret)
    if known is None:
        if _is_bearer():
            g.refused = "a token that is not valid"
        return None
    g.via = known.via
    if known.touch_due and not _is_bearer() and _is_activity():
        _touch(secret)
    return known.user


def request_secret() -> str | None:
    """Return the secret of the token or the session of this request, or None."""
    return bearer_token() if _is_bearer() else session.get(_SESSION_KEY)


def _is_activity() -> bool:
    """Return whether a person made the request. An open page requests polls, images and curves on its own."""
    if request.method not in SAFE_METHODS:
        return True
    return POLL not in request.args and not request.path.startswith("/api/")


def _touch(secret: str) -> None:
    try:
        with session_scope() as s:
            tokens.touch_session(s, secret)
    except OperationalError as error:  # on a full disk, people can still read pages
        log.warning("The use of a session was not recorded: %s", type(error.orig).__name__)


def bearer_token() -> str | None:
    """Return the token of an `Authorization: Bearer …` header (RFC 6750, section 2.1), or None."""
    return request.authorization.token if request.authorization and _is_bearer() else None


def _is_bearer() -> bool:
    return request.authorization is not None and request.authorization.type == "bearer"


def require_user() -> User:
    """Return the user of this request. Raises Problem 401."""
    user = current_user()
    if user is None:
        raise not_signed_in()
    return user


def require_admin() -> User:
    """Return the user of this request, who must be an admin. Raises Problem 401 or 403."""
    user = require_user()
    g.is_for_admins = True
    if not user.is_admin:
        g.refused = "an address for admins"
        with read_scope() as s:
            raise _only_admins(s)
    return user


def _only_admins(s: Session) -> Problem:
    names = accounts.admin_names(s)
    who = f"Ask an admin, such as {' or '.join(names[:SHOWN_ADMINS])}," if names else "Ask one"
    return Problem(403, "forbidden", f"Only an admin may do this. {who} to do it, or to make you an admin.")


def check_again(s: Session) -> None:
    """Check the user of this request once more. An upload may take an hour, and its user may lose access meanwhile.

    A token or session may have expired since the request began. Raises Problem 401: the user is disabled, or the token
    or session was revoked. Raises Problem 403: the request is for admins, and the user is no longer one.
    """
    user = tokens.user_of_unrevoked(s, request_secret() or "")
    if user is None:
        raise not_signed_in()
    if g.get("is_for_admins") and not user.is_admin:
        raise _only_admins(s)


def guard_api(blueprint: APIBlueprint) -> None:
    """Let only users through to a blueprint of the API. A browser that writes must send its CSRF token in a header.

    The token is not in a form field, because reading the form would receive a whole upload before refusing it.
    Parameters that an address does not take, or that are given twice, are refused.
    """
    blueprint.before_request(_check_api_request)
    blueprint.before_request(_check_parameters)


def guard_admin_api(blueprint: APIBlueprint) -> None:
    """Let only admins through to a blueprint of the API, before a request's body is read."""
    blueprint.before_request(check_admin)
    guard_api(blueprint)


def check_user() -> None:
    """Raise Problem 401 unless a user is signed in."""
    require_user()


def check_admin() -> None:
    """Raise Problem 401 or 403 unless an admin is signed in."""
    require_admin()


def _check_api_request() -> None:
    require_user()
    if request.method in SAFE_METHODS or _is_bearer():
        return
    try:
        check_token(request.headers.get("X-CSRFToken"))
    except ValidationError as error:
        raise Problem(400, "csrf", "The header X-CSRFToken has no valid token. Reload the page.") from error


def _check_parameters() -> None:
    """Raise Problem 422 if a request to the API gives a parameter twice, or one that its view does not take.

    Views that take parameters check names and values themselves. They see one value of each, because none is a list.
    """
    if "query_data" in signature(current_app.view_functions[request.endpoint or ""]).parameters:
        wrong = [name for name, values in request.args.lists() if len(values) > 1]
        advice = "Send each parameter only once."
    else:
        wrong, advice = list(request.args), "This address takes no parameters. Leave them out."
    if wrong:
        raise Problem(422, "invalid", advice, errors={"query": {name: [advice] for name in wrong}})


def sign_in(user: User, via: str) -> None:
    """Start a new session for the browser of this request. The old session and its id are dropped.

    `via`: what the user signed in with, for the audit trail.
    """
    sign_out()
    with session_scope() as s:
        secret = tokens.issue_token(s, user, "browser", SESSION_LIFE, kind="session")
        record(s, Action.SIGN_IN, f"user {user.name}", actor=Actor(user.name, via, address_text()))
    session[_SESSION_KEY] = secret
    session.permanent = True
    after_this_request(lambda response: known_devices.remember(response, user.name))


def sign_out() -> None:
    """End this browser's session on the server, and empty the cookie."""
    secret = session.get(_SESSION_KEY)
    if secret:
        with session_scope() as s:
            if user := tokens.end_session(s, secret):
                record(s, Action.SIGN_OUT, f"user {user.name}")
    session.clear()
    g.pop("user", None)


def local_path(target: str | None, default: str = "/") -> str:
    """Return `target` if it is a path of this site, or `default` if it could lead to another site."""
    if not target or not target.startswith("/") or target.startswith(("//", "/\\")) or not target.isprintable():
        return default
    parts = urlsplit(target)
    return default if parts.scheme or parts.netloc or "\\" in target else target
