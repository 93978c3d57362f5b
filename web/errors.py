"""Turns errors into answers: problem+json (RFC 9457) for the API, a page for a browser."""

import errno
import logging
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from apiflask.exceptions import HTTPError
from flask import Flask, Response, g, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import ClientDisconnected, HTTPException

from db.access.request_keys import IdempotencyConflict
from db.installation import ForeignStorage
from db.ledger.completion import JobGone
from db.ledger.jobs import NoModelVersion
from db.paging import BadCursor
from db.reasons import explain
from db.storage import FileDamaged, FileMissing
from training.launch.installed import TrainingNotInstalled
from worker.imaging.rejections import ArchiveRefused

log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:ctbatch:problem:"
"""The `type` of a problem is this prefix and the problem's slug. Programs distinguish problems by it."""

SAID_BY_CODE = frozenset(
    {"no_images", "deflate64", "truncated_archive", "trailing_data", "overlap", "password_protected"}
)
"""Codes of refused archives whose detail is not shown, because it repeats the sentence of the code."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
STORAGE_AWAY = (
    errno.EIO, errno.EREMOTEIO, errno.EBUSY, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
)  # fmt: skip

_SLUGS = {
    400: "bad-request",
    401: "not-signed-in",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    409: "conflict",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid",
    429: "too-many-requests",
    500: "internal",
    503: "unavailable",
    507: "disk-full",
}


class Problem(Exception):
    """An error as an answer: an HTTP status, a stable slug, a sentence for people, and members for programs."""

    def __init__(self, status: int, slug: str, detail: str, headers: dict[str, str] | None = None, **members: Any):
        super().__init__(slug)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    @property
    def title(self) -> str:
        """Return the name of the status in words."""
        return HTTPStatus(self.status).phrase

    def as_dict(self) -> dict[str, Any]:
        """Return the body of application/problem+json."""
        return {
            "type": TYPE_PREFIX + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }


def sentence(error: object) -> str:
    """Turn a line of an error or a verdict into a sentence. A label at its start, such as `site/1`, does not change."""
    text = str(error)
    is_label = any(character in "/_" or character.isdigit() for character in text.partition(" ")[0])
    start = text[:1] if is_label else text[:1].upper()
    return start + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def not_found() -> Problem:
    """Return a 404. The answer is the same if a thing exists but is somebody else's, so that ids cannot be probed."""
    return Problem(404, "not-found", "There is nothing here, or it belongs to somebody else. Check the address.")


def not_signed_in(detail: str = "You are not signed in. Sign in, or send a valid token.") -> Problem:
    """Return a 401: nobody is signed in, or the token is unknown, revoked or expired (RFC 6750, section 3)."""
    return Problem(401, "not-signed-in", detail, headers={"WWW-Authenticate": 'Bearer realm="ctbatch"'})


def refused_archive(filename: str, refused: ArchiveRefused) -> Problem:
    """Return a 422 for a refused file. Nothing of the submission was queued."""
    return Problem(
        422,
        "archive-refused",
        explain(refused.code) if refused.code in SAID_BY_CODE else f"{explain(refused.code)} {refused.detail}".strip(),
        code=refused.code,
        file=filename,
        last_good=refused.last_good,
    )


def as_problem(error: Exception) -> Problem:
    """Turn an exception into a Problem. This is the only function that does so.

    An unexpected error becomes a 500 and is logged.
    """
    match error:
        case Problem():
            return error
        case CSRFError():
            return Problem(
                400, "csrf", "This form is out of date or from another site. Go back, reload that page, and try again."
            )
        case BadCursor():
            return Problem(
                422, "invalid", "The cursor is not valid for this list. Request the first page without a cursor."
            )
        case HTTPError():
            return _from_apiflask(error)
        case ClientDisconnected():
            return Problem(400, "disconnected", "The connection ended before everything was received. Send it again.")
        case HTTPException():
            return _from_werkzeug(error)
        case IdempotencyConflict():
            return Problem(422, "idempotency-conflict", "This key was used before with another request. Use a new key.")
        case JobGone():  # the job was deleted during this request
            return not_found()
        case NoModelVersion():
            return Problem(503, "no-model-version", "No model version is the champion. An admin must promote one.")
        case TrainingNotInstalled():
            return Problem(503, "training-not-installed", str(error))
        case FileMissing() | FileDamaged():
            log.error("A stored file is missing or damaged: %s", error)
            return Problem(503, "file-lost", "A stored file is missing or damaged. Tell the operator of this server.")
        case OSError() if error.errno in DISK_FULL:
            log.error("Storage is full")
            return Problem(507, "disk-full", "The server's disk is full. Nothing was queued. Tell its operator.")
        case ForeignStorage() | OSError() if _is_storage_away(error):
            log.error("the storage cannot be used: %s", getattr(error, "strerror", None) or type(error).__name__)
            return Problem(
                503, "storage-away", "The server's storage is not available. Nothing was queued. Tell its operator."
            )
        case RecursionError():
            log.error("Nested too deeply", exc_info=error)
            return Problem(400, "bad-request", "The request is nested too deeply. Send a simpler one.")
        case OperationalError():
            log.error("Database not available: %s", type(error.orig).__name__)
            return Problem(
                503, "unavailable", "The database cannot be reached right now. Try again soon.", {"Retry-After": "5"}
            )
    log.error("Unhandled %s", type(error).__name__, exc_info=error)
    return Problem(500, "internal", "The server made an error and logged it. Try again, or tell the operator.")


def _is_storage_away(error: Exception) -> bool:
    """Return whether storage is unreachable, or is not the storage of this database."""
    if isinstance(error, OSError) and error.errno in STORAGE_AWAY:
        return True
    return isinstance(error, ForeignStorage | ConnectionError | TimeoutError)


def _from_apiflask(error: HTTPError) -> Problem:
    members = {"errors": error.detail} if error.detail else {}
    slug = _SLUGS.get(error.status_code, "http-error")
    return Problem(error.status_code, slug, str(error.message), **members)


def _from_werkzeug(error: HTTPException) -> Problem:
    status = error.code or 500
    headers = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    if status == 429:
        headers.setdefault("Retry-After", "60")
        return Problem(429, "too-many-requests", "Too many attempts. Wait a minute, then try again.", headers)
    if status == 404:
        return not_found()
    return Problem(status, _SLUGS.get(status, "http-error"), error.description or "", headers)


def install(app: Flask) -> None:
    """Answer every exception of every route by `respond`."""
    app.register_error_handler(Exception, respond)
    app.register_error_handler(HTTPException, respond)
    app.register_error_handler(HTTPError, respond)


def respond(error: Exception) -> ResponseReturnValue:
    """Return the response for an exception: problem+json or a page."""
    if isinstance(error, HTTPException) and error.response is not None:
        return error.response
    if isinstance(error, HTTPException) and error.code is not None and 300 <= error.code < 400:
        return error.get_response()
    problem = as_problem(error)
    return _as_json(problem) if request.path.startswith("/api/") else _as_page(problem)


def _as_json(problem: Problem) -> Response:
    response = jsonify(problem.as_dict())
    response.status_code = problem.status
    response.mimetype = "application/problem+json"
    response.headers.update(problem.headers)
    return response


def _as_page(problem: Problem) -> ResponseReturnValue:
    if problem.status == 401:
        if request.headers.get("HX-Request"):
            if request.method != "GET":  # the page keeps the unsent values, and reports the failure
                return Response(status=401)
            return Response(status=401, headers={"HX-Redirect": url_for("sign_in.form", next=_shown_page() or None)})
        back = request.full_path.rstrip("?") if request.method == "GET" else _shown_page() or "/"
        return redirect(url_for("sign_in.form", next=back), 303)
    if problem.status >= 500:
        g.setdefault("user", None)  # looking up the user may have failed
    return render_template("error.html", problem=problem), problem.status, problem.headers


def _shown_page() -> str:
    """Return the path and the query of the page that sent this request, or ""."""
    address = request.headers.get("HX-Current-URL") or request.referrer or ""
    return urlsplit(address)._replace(scheme="", netloc="").geturl()
