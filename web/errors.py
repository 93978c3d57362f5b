"""Every error and what people get for it: problem+json (RFC 9457) from the API, a page for a browser."""

import errno
import logging
from http import HTTPStatus
from typing import Any

from apiflask.exceptions import HTTPError
from flask import Flask, Response, g, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import ClientDisconnected, HTTPException

from db.ledger.jobs import IdempotencyConflict, NoModelVersion
from db.paging import BadCursor
from db.reasons import explain
from db.storage import FileDamaged, FileMissing
from training.launch.installed import TrainingNotInstalled
from worker.imaging.rejections import ArchiveRefused

log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:ctbatch:problem:"
"""A problem's `type` is this and its slug: programs tell problems apart by it, and it does not change."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

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
    """An answer that is an error: an HTTP status, a stable slug, a sentence for people, and members for programs."""

    def __init__(self, status: int, slug: str, detail: str, headers: dict[str, str] | None = None, **members: Any):
        super().__init__(slug)
        self.status = status
        self.slug = slug
        self.detail = detail
        self.headers = headers or {}
        self.members = members

    @property
    def title(self) -> str:
        """The status in words."""
        return HTTPStatus(self.status).phrase

    def as_dict(self) -> dict[str, Any]:
        """The body of application/problem+json."""
        return {
            "type": TYPE_PREFIX + self.slug,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }


def sentence(error: object) -> str:
    """The one line of an error or a verdict of ours, as people read it."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def not_found() -> Problem:
    """What is not there, and what is not theirs: the same answer, so that ids cannot be probed."""
    return Problem(404, "not-found", "There is nothing here, or it is not yours.")


def not_signed_in(detail: str = "Sign in first, or send a token that is valid.") -> Problem:
    """No user, or a token that is unknown, revoked or expired (RFC 6750, section 3)."""
    return Problem(401, "not-signed-in", detail, headers={"WWW-Authenticate": 'Bearer realm="ctbatch"'})


def refused_archive(filename: str, refused: ArchiveRefused) -> Problem:
    """422: a file of the submission that is refused whole, so nothing was queued."""
    return Problem(
        422,
        "archive-refused",
        f"{explain(refused.code)} {refused.detail}".strip(),
        code=refused.code,
        file=filename,
        last_good=refused.last_good,
    )


def as_problem(error: Exception) -> Problem:
    """The one place where exceptions become statuses. What is not known here is a fault of ours: 500, logged."""
    match error:
        case Problem():
            return error
        case CSRFError():
            return Problem(400, "csrf", "This form is out of date or from another site; reload the page and try again.")
        case BadCursor():
            return Problem(422, "invalid", "The cursor is not one that this server gave for this list.")
        case HTTPError():
            return _from_apiflask(error)
        case ClientDisconnected():
            return Problem(400, "disconnected", "The connection ended before everything was received.")
        case HTTPException():
            return _from_werkzeug(error)
        case IdempotencyConflict():
            return Problem(
                422, "idempotency-conflict", "This Idempotency-Key was used before with other files or settings."
            )
        case NoModelVersion():
            return Problem(503, "no-model-version", "There is no model version to predict with yet.")
        case TrainingNotInstalled():
            return Problem(503, "training-not-installed", str(error))
        case FileMissing() | FileDamaged():
            log.error("A stored file is missing or damaged: %s", error)
            return Problem(503, "file-lost", "A file that this needs is missing from storage, or damaged.")
        case OSError() if error.errno in DISK_FULL:
            log.error("Storage is full")
            return Problem(507, "disk-full", "The server has no room left for this. Nothing was queued.")
        case RecursionError():
            log.error("Nested too deeply", exc_info=error)
            return Problem(400, "bad-request", "What was sent is nested too deeply.")
        case OperationalError():
            log.error("Database not available: %s", type(error.orig).__name__)
            return Problem(503, "unavailable", "The database cannot be reached right now.", {"Retry-After": "5"})
    log.error("Unhandled %s", type(error).__name__, exc_info=error)
    return Problem(500, "internal", "Something went wrong here; it has been logged.")


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
    """The response for an exception, in the form that the client reads."""
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
        target = url_for("sign_in.form", next=request.full_path.rstrip("?") if request.method == "GET" else "/")
        if request.headers.get("HX-Request"):  # a poll of a page whose session has ended
            return Response(status=401, headers={"HX-Redirect": url_for("sign_in.form")})
        return redirect(target, 303)
    if problem.status >= 500:
        g.setdefault("user", None)  # who it is may be what cannot be looked up
    page = render_template("error.html", problem=problem)
    return Response(page, problem.status, problem.headers, content_type="text/html; charset=utf-8")
