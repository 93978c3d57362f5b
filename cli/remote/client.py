"""Sends HTTP requests to a ctbatch server. Retries temporary failures, and turns every problem into one error."""

import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import urljoin

import httpx

from cli.errors import CommandError, Declined, NotFoundOrDenied, Unavailable, UsageError
from cli.output import NO_MODEL, safe, say
from cli.polling import poll
from cli.remote.find_server import Server, find_server

Json = dict[str, Any]
API = "/api/v1"
QUICK_SECONDS = 60.0  # time limit for the next bytes of a request that a person waits for
# Submissions and downloads wait longer: for a free thread of the server, and for long work. `.docker/nginx.conf` has
# the same limits.
SUBMIT_SECONDS, DOWNLOAD_SECONDS = 3600.0, 600.0
PAUSES = (0.25, 0.5, 1, 2)  # seconds between the tries of a request that a person waits for
PATIENT_PAUSES = (*PAUSES, 4, 8, 8, 8, 8)  # for requests that long work depends on: the server may be restarting
# The pause between two looks at a job. Each look takes server time from predicting, and a job that ends during a pause
# is noticed late. So there are few looks while the end is far away.
POLL_SECONDS, POLL_SECONDS_MOST = 0.03, 1.0
POLL_SHARE_OF_AGE = 0.05  # the pause as a share of the time since the first look, if the end is not estimated
POLL_SHARE_NOT_SURE = 0.3  # the end may come earlier: by this share of that time and half of the time left
PASSING = {429, 502, 503, 504}  # statuses of temporary failures
PAGE = 200  # the most items that one request for a list asks for; the server allows at least as many
# Problems of a server that did not do what was asked, for certain
DECLINED = {"no-model-version", "disk-full", "storage-away"}
PERMANENT = {"no-model-version"}  # problems that waiting does not solve, although their status is in PASSING
LONGEST_RETRY_AFTER = 60.0
JSON = "application/json"
MEDIA_TYPES = {"csv": "text/csv", "json": JSON, "parquet": "application/vnd.apache.parquet"}  # of exports, by format


def job_path(job_id: str, below: str = "") -> str:
    """Return the path of a job, or of `below` it.

    Raises:
        NotFoundOrDenied: no job has such an id. In a path, it could be the address of something else.
    """
    if not (job_id.isascii() and job_id.isalnum()):
        raise _no_job(job_id)
    return f"/jobs/{job_id}{below}"


def _no_job(job_id: str) -> NotFoundOrDenied:
    return NotFoundOrDenied(
        f"there is no job {job_id!a}, or it belongs to somebody else; `ctbatch jobs ls` lists the ids of jobs"
    )


class Client:
    """A connection to one server. A call that fails raises a subclass of `CommandError`."""

    def __init__(self, server: Server | None = None) -> None:
        """Use `server`, or else find a server. Nothing is sent yet."""
        self.server = server or find_server()
        self._http = httpx.Client(
            base_url=self.server.url,
            headers={"Authorization": f"Bearer {self.server.token}", "Accept": "application/json"},
            timeout=_timeout(QUICK_SECONDS),
            trust_env=not self.server.local,  # no proxy is needed for this machine
        )

    def __enter__(self) -> Self:
        """Close the connection at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON at a path below `/api/v1`. Parameters that are None are left out."""
        return self._request("GET", path, params=params).json()

    def check(self) -> None:
        """Check that the server answers and accepts the token. Try only once."""
        self._request("GET", "/jobs", params={"limit": 1}, pauses=())

    def post(self, path: str) -> Any:
        """Post an empty body to a path below `/api/v1`, and return the JSON of the answer. Try only once."""
        return self._request("POST", path, pauses=()).json()

    def delete(self, path: str) -> None:
        """Delete what is at a path below `/api/v1`. Try only once."""
        self._request("DELETE", path, pauses=())

    def submit(self, fields: Mapping[str, str], files: Sequence[tuple[str, BinaryIO]], idempotency_key: str) -> Json:
        """Send form fields and files with their names, and return the job.

        If the connection is lost, ask the server for the job with this key. If there is no such job, send the same
        bytes again. Because of the key, the server makes only one job.
        """

        def made() -> httpx.Response | None:
            try:
                listed = self._request("GET", "/jobs", params={"idempotency_key": idempotency_key}, pauses=())
                jobs = listed.json()["items"]
                return self._request("GET", f"/jobs/{jobs[0]['id']}", pauses=()) if jobs else None
            except CommandError:
                return None

        answer = self._request(
            "POST",
            "/jobs",
            pauses=PATIENT_PAUSES,
            instead=made,
            data=fields,
            files=[("files", (name, file, "application/octet-stream")) for name, file in files],
            headers={
                "Content-Type": f"multipart/form-data; boundary={secrets.token_hex(16)}",  # the same for each try
                "Idempotency-Key": idempotency_key,
            },
            timeout=_timeout(SUBMIT_SECONDS),
        )
        job: Json = answer.json()
        return job

    def page(self, job: Json) -> str:
        """Return the address of a job's page."""
        return urljoin(self.server.url + "/", str((job.get("links") or {}).get("page") or f"/jobs/{job['id']}"))

    def pages(self, path: str, params: Mapping[str, Any], limit: int | None = None) -> Iterator[Json]:
        """Yield the items of a list that the server sends in pages. Yield at most `limit` items."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = None if left is None else min(left, PAGE)
            page = self.get(path, {**params, "cursor": cursor, "limit": size})
            yield from page["items"] if left is None else page["items"][:left]
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def watch(self, job_id: str) -> Iterator[Json]:
        """Yield the view of a job now and after each change, until the job is finished, cancelled or failed."""
        path, etag, done = job_path(job_id), "", 0
        expected_end: float | None = None  # by the monotonic clock; None if the server has not estimated it

        def look() -> httpx.Response:
            headers = {"If-None-Match": etag} if etag else {}
            return self._request("GET", path, pauses=PATIENT_PAUSES, headers=headers)

        def pause(age: float) -> float:
            return _pause(age, expected_end)

        for answer in poll(look, pause):
            if answer.status_code != 304:
                etag = answer.headers.get("ETag", "")
                job: Json = answer.json()
                if job["stages"]["done"] != done:
                    done = job["stages"]["done"]
                    eta = job["eta_seconds"]
                    expected_end = None if eta is None else time.monotonic() + eta
                yield job
                if job["state"] not in ("queued", "running"):
                    return

    def stream(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of the export at a path below `/api/v1` as they come. The path ends with its format.

        If the export lacks something because its job has not ended, say so on stderr.

        Raises:
            Unavailable: the connection ended too early, or the answer is not this export.
        """
        try:
            with self._http.stream("GET", API + path, timeout=_timeout(DOWNLOAD_SECONDS)) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                self._check(answer, MEDIA_TYPES[path.rpartition(".")[2]])
                if lacking := answer.headers.get("X-Incomplete"):
                    say(safe(lacking))
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise Unavailable(f"{self.server.url} ended the connection too early: {error}; try again") from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        pauses: Sequence[float] = PAUSES,
        instead: Callable[[], httpx.Response | None] = lambda: None,
        **options: Any,
    ) -> httpx.Response:
        """Send a request. After a temporary failure, send it again after each of `pauses`, in seconds.

        Before each repeat, call `instead`. If `instead` returns an answer, return this answer and do not repeat.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        for pause in (*pauses, None):
            try:
                answer = self._http.request(method, API + path, params=given, **options)
            except httpx.TransportError as error:
                if pause is None:
                    why = str(error) or type(error).__name__
                    raise Unavailable(f"cannot reach {self.server.url}: {why}") from error
                wait = pause
            else:
                if not answer.is_error:
                    self._check(answer, JSON)
                    return answer
                if pause is None or not _may_pass(answer):
                    raise _error(answer)
                wait = max(pause, _retry_after(answer))
            if pause == pauses[0]:
                say(f"{self.server.url} does not answer as it should; trying again")
            time.sleep(wait)
            if (answer_instead := instead()) is not None:
                return answer_instead
        raise AssertionError("the last try returns or raises")

    def _check(self, answer: httpx.Response, media_type: str) -> None:
        """Raise an error if a proxy or another server gave this answer. A redirect is not followed with the token.

        Raises:
            UsageError: the answer is a redirect.
            Unavailable: the answer is not of this media type.
        """
        if answer.status_code in (httpx.codes.NOT_MODIFIED, httpx.codes.NO_CONTENT):
            return
        if not answer.is_success:
            target = str(answer.next_request.url.copy_with(query=None)) if answer.next_request else "no address"
            base, api, _ = target.partition(API + "/")
            advice = f"set CTBATCH_SERVER to {base}" if api else "check CTBATCH_SERVER and the proxies before it"
            raise UsageError(safe(f"{self.server.url} answered {answer.status_code} to {target}; {advice}"))
        given = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if given != media_type:
            kind = safe(given) or "no media type"
            raise Unavailable(
                f"{self.server.url} answered with {kind} instead of {media_type}; check CTBATCH_SERVER, and whether a"
                " proxy or a sign-in page answers there"
            )


def _timeout(seconds: float) -> httpx.Timeout:
    """Return the time limits of a request: for the next bytes in either direction, and a short one for connecting."""
    return httpx.Timeout(seconds, connect=10)


def _pause(age: float, expected_end: float | None) -> float:
    """Return the seconds until the next look at a job.

    `age`: the seconds since the first look. `expected_end`: when it may end, by the monotonic clock, or None.
    """
    if expected_end is None:
        wanted = POLL_SHARE_OF_AGE * age
    else:
        surely_left = (expected_end - time.monotonic()) / 2 - POLL_SHARE_NOT_SURE * age
        wanted = max(surely_left / 2, POLL_SECONDS * math.sqrt(age))
    return min(max(POLL_SECONDS, wanted), POLL_SECONDS_MOST)


def _may_pass(answer: httpx.Response) -> bool:
    return answer.status_code in PASSING and _slug(_problem(answer)) not in PERMANENT


def _retry_after(answer: httpx.Response) -> float:
    given = answer.headers.get("Retry-After", "")
    return min(float(given), LONGEST_RETRY_AFTER) if given.isdecimal() else 0.0


def _problem(answer: httpx.Response) -> Json:
    """Return the RFC 9457 members of an answer, or {} if the body is of another kind, such as a proxy's page."""
    try:
        problem = answer.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _slug(problem: Json) -> str:
    return str(problem.get("type", "")).rpartition(":")[2]


def _details(errors: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the sentences in the `errors` of a problem, each with the name of its parameter, field or part."""
    if isinstance(errors, dict):
        for key, value in errors.items():
            yield from _details(value, str(key))
    elif isinstance(errors, list):
        for value in errors:
            yield from _details(value, name)
    elif errors:
        yield safe(name), safe(errors)


def _error(answer: httpx.Response) -> CommandError:
    """Return the error for a failed answer, with a message for the person who typed the command."""
    problem = _problem(answer)
    message = safe(problem.get("detail") or problem.get("title") or f"HTTP status {answer.status_code}")
    if about := [safe(problem[name]) for name in ("file", "code") if problem.get(name)]:
        message += f" ({', '.join(about)})"
    if details := [f"{name}: {text}" for name, text in _details(problem.get("errors")) if text not in message]:
        message += f" ({'; '.join(details)})"
    under_jobs = answer.request.url.path.partition(f"{API}/jobs/")[2]
    if answer.status_code == httpx.codes.NOT_FOUND and _slug(problem) == "not-found" and under_jobs:
        return _no_job(under_jobs.partition("/")[0])
    if answer.status_code in (401, 403, 404):
        return NotFoundOrDenied(message)
    if _slug(problem) == "no-model-version":
        return Declined(f"{message} {NO_MODEL}.")
    if _slug(problem) in DECLINED:
        return Declined(message)
    if _slug(problem) == "not-ended":
        return Unavailable(message)
    if answer.status_code >= 500 or answer.status_code == 429:
        return Unavailable(message)
    return UsageError(message)
