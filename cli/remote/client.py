"""Speaks HTTP to a ctbatch server: retries what may be retried, and turns every problem into one clear error."""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import httpx

from cli.errors import CommandError, NotFoundOrDenied, Unavailable, UsageError
from cli.output import NO_MODEL, safe, say
from cli.polling import poll
from cli.remote.find_server import Server, find_server
from cli.remote.multipart import MultipartBody

Json = dict[str, Any]
API = "/api/v1"
PAUSES = (0.25, 0.5, 1, 2)  # seconds between the tries of a question that a person waits for
PATIENT_PAUSES = (*PAUSES, 4, 8, 8, 8, 8)  # of one that long work hangs on: a server may be starting again
# A job of one slice is done at once; a long one is asked for at a twentieth of its age, for each question costs the
# server what it could predict with.
POLL_SECONDS, POLL_SHARE, POLL_SECONDS_MOST = 0.1, 0.05, 1.0
PASSING = {429, 502, 503, 504}  # statuses that may be gone at the next try
FOR_GOOD = {"no-model-version"}  # problems that no waiting mends, though their status is a passing one
LONGEST_RETRY_AFTER = 60.0


class Client:
    """A connection to one server. All calls raise `CommandError` of the right kind when they fail."""

    def __init__(self, server: Server | None = None) -> None:
        """Take `server`, or find one; nothing is sent yet."""
        self.server = server or find_server()
        self._http = httpx.Client(
            base_url=self.server.url,
            headers={"Authorization": f"Bearer {self.server.token}", "Accept": "application/json"},
            timeout=httpx.Timeout(60, connect=10),
            trust_env=not self.server.local,  # no proxy lies before this machine
        )

    def __enter__(self) -> Self:
        """Enter a context that closes the connection."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON at a path below `/api/v1`; parameters that are None are left out."""
        return self._request("GET", path, params=params).json()

    def check(self) -> None:
        """Ask once whether the server answers and takes the token."""
        self._request("GET", "/jobs", params={"limit": 1}, pauses=())

    def post(self, path: str) -> Any:
        """Post nothing to a path below `/api/v1`, once, and return the JSON of the answer."""
        return self._request("POST", path, pauses=()).json()

    def submit(self, body: MultipartBody, idempotency_key: str) -> Json:
        """Send a submission and return its job. A lost connection is tried again: the key keeps it one job."""
        headers = body.headers | {"Idempotency-Key": idempotency_key}
        timeout = httpx.Timeout(60, connect=10, read=900)  # the server looks into the archive before it answers
        answer = self._request("POST", "/jobs", pauses=PATIENT_PAUSES, content=body, headers=headers, timeout=timeout)
        job: Json = answer.json()
        return job

    def page(self, job: Json) -> str:
        """Return the address of a job's page."""
        return urljoin(self.server.url + "/", str((job.get("links") or {}).get("page") or f"/jobs/{job['id']}"))

    def pages(self, path: str, params: Mapping[str, Any], limit: int | None = None) -> Iterator[Json]:
        """Yield the items of a list that comes in keyset pages, at most `limit` of them."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = None if left is None else min(left, 500)
            page = self.get(path, {**params, "cursor": cursor, "limit": size})
            yield from page["items"] if left is None else page["items"][:left]
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def watch(self, job_id: str) -> Iterator[Json]:
        """Yield a job now and after each change, until it has ended (state finished, cancelled or failed)."""
        etag = ""

        def look() -> httpx.Response:
            headers = {"If-None-Match": etag} if etag else {}
            return self._request("GET", f"/jobs/{job_id}", pauses=PATIENT_PAUSES, headers=headers)

        for answer in poll(look, lambda age: min(max(POLL_SECONDS, POLL_SHARE * age), POLL_SECONDS_MOST)):
            if answer.status_code != 304:
                etag = answer.headers.get("ETag", "")
                job: Json = answer.json()
                yield job
                if job["state"] not in ("queued", "running"):
                    return

    def stream(self, path: str) -> Iterator[bytes]:
        """Yield the bytes at a path below `/api/v1` as they come.

        Raises:
            Unavailable: the connection ended before all was there.
        """
        try:
            with self._http.stream("GET", API + path) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error(answer)
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise Unavailable(f"{self.server.url} ended the connection before everything was sent: {error}") from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        pauses: Sequence[float] = PAUSES,
        **options: Any,
    ) -> httpx.Response:
        """Ask until there is an answer that is no passing failure, once more after each of `pauses` (seconds)."""
        for pause in (*pauses, None):
            try:
                answer = self._http.request(method, API + path, params=_given(params), **options)
            except httpx.TransportError as error:
                if pause is None:
                    why = str(error) or type(error).__name__
                    raise Unavailable(f"cannot reach {self.server.url}: {why}") from error
                wait = pause
            except httpx.InvalidURL as error:
                raise UsageError(f"no valid address: {self.server.url}{path}") from error
            else:
                if not answer.is_error:
                    return answer
                if pause is None or not _may_pass(answer):
                    raise _error(answer)
                wait = max(pause, _retry_after(answer))
            if pause == pauses[0]:
                say(f"no good answer from {self.server.url}; trying again")
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _may_pass(answer: httpx.Response) -> bool:
    return answer.status_code in PASSING and _slug(_problem(answer)) not in FOR_GOOD


def _retry_after(answer: httpx.Response) -> float:
    given = answer.headers.get("Retry-After", "")
    return min(float(given), LONGEST_RETRY_AFTER) if given.isdecimal() else 0.0


def _problem(answer: httpx.Response) -> Json:
    """Return the RFC 9457 members of an answer; none for a body of another kind (a proxy's page)."""
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _slug(problem: Json) -> str:
    return str(problem.get("type", "")).rpartition(":")[2]


def _error(answer: httpx.Response) -> CommandError:
    """Return the error that says what a failed answer means to the person who typed the command."""
    problem = _problem(answer)
    message = safe(problem.get("detail") or problem.get("title") or f"HTTP status {answer.status_code}")
    if about := [safe(problem[name]) for name in ("file", "code") if problem.get(name)]:
        message += f" ({', '.join(about)})"
    if answer.status_code in (401, 403, 404):
        return NotFoundOrDenied(message)
    if _slug(problem) == "no-model-version":
        return Unavailable(f"{message} {NO_MODEL}.")
    if answer.status_code >= 500 or answer.status_code == 429:
        return Unavailable(message)
    return UsageError(message)
