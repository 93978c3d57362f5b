"""The command as people run it, and a small real HTTP server that speaks the API and can be made to fail."""

import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from werkzeug.formparser import parse_form_data

from db.settings import Settings
from tests.builders.commands import Result, run_command

PROJECT = Path(__file__).parents[2]
TOKEN = "ctb_test"
PROXIES = {  # answers that are not ctbatch's: status, media type, header
    "to https": (301, "text/html", {"Location": "https://ct.example/api/v1/jobs"}),
    "to sign-in": (302, "text/html", {"Location": "https://sso.example/login?return=/api/v1/jobs"}),
    "nowhere": (300, "application/json", {}),
    "sign-in page": (200, "text/html", {}),
}


def clean_environment() -> dict[str, str]:
    """The present environment without what would lead the command elsewhere."""
    foreign = ("CTBATCH_", "DATABASE_URL", "CELERY_BROKER_URL", "PORT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PYTHONPATH": str(PROJECT)}


@pytest.fixture
def ctbatch(tmp_path: Path) -> Callable[..., Result]:
    """Run the command with a home of its own; `env` adds to the environment."""

    def run(*words: object, stdin: str = "", env: dict[str, str] | None = None) -> Result:
        own = clean_environment() | {"CTBATCH_HOME": str(tmp_path / "home")} | (env or {})
        return run_command([str(word) for word in words], own, tmp_path, stdin)

    return run


@pytest.fixture
def fresh_ctbatch(tmp_path: Path) -> Callable[..., Result]:
    """Run the command like `ctbatch`, in an interpreter that has imported nothing yet."""

    def run(*words: object, env: dict[str, str] | None = None) -> Result:
        return subprocess.run(
            [sys.executable, "-m", "cli", *map(str, words)],
            env=clean_environment() | {"CTBATCH_HOME": str(tmp_path / "home")} | (env or {}),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def use_link(browser: httpx.Client, link: str) -> httpx.Response:
    """Open a sign-in link and press its button."""
    token = browser.get(link).text.split('name="csrf-token" content="')[1].split('"')[0]
    return browser.post(link, data={"csrf_token": token})


@pytest.fixture
def database(settings: Settings) -> Settings:
    """SQLite only: the database's own tests run on both, and the command line does the same on either."""
    return settings


class Api(ThreadingHTTPServer):
    """Jobs in a dict. `faults` are taken one for each request that the test lets fail.

    A fault is a status, "drop", a proxy, or "no-model-version".
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.forgets_keys = False  # lists no job by its key
        self.uploads: list[list[tuple[str, bytes]]] = []
        self.bodies: list[tuple[str, bytes]] = []  # of submissions: their Content-Type and all bytes
        self.fields: list[dict[str, str]] = []
        self.views: dict[str, list[dict[str, Any]]] = {}  # what a job is seen as, next
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.findings: dict[str, list[dict[str, Any]]] = {}
        self.faults: list[int | str] = []
        self.requests: list[tuple[str, str, int]] = []  # method, path with query, status

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def env(self) -> dict[str, str]:
        return {"CTBATCH_SERVER": self.url, "CTBATCH_TOKEN": TOKEN}

    def add_job(self, state: str = "queued", name: str = "scan.zip", **counts: int) -> dict[str, Any]:
        job_id = f"job{len(self.jobs) + 1}"
        self.jobs[job_id] = job_view(job_id, state, name, **counts)
        return self.jobs[job_id]

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that a test made fail is no news."""


def job_view(job_id: str, state: str, name: str, **counts: int) -> dict[str, Any]:
    """A job as the API shows it."""
    empty = state in ("finished", "cancelled", "failed") and not counts.get("predicted")
    names = ("received", "predicted", "positive", "rejected", "quarantined", "cancelled", "open")
    return {
        "id": job_id,
        "name": name,
        "state": state,
        "state_text": f"{state}, nothing predicted" if empty else state,
        "nothing_predicted": empty,
        "model_version": "demo/1",
        "model_note": "demo: synthetic phantoms, knows nothing about patients",
        "recipe": "lung-224-v1",
        "priority": 0,
        "counts": {name: counts.get(name, 0) for name in names},
        "stages": {"total": counts.get("received", 0), "total_known": True, "done": counts.get("predicted", 0)},
        "rejections": {"truncated": counts["rejected"]} if counts.get("rejected") else {},
        "rate": 12.5,
        "eta_seconds": None,
        "created_at": "2026-01-02T03:04:05+00:00",
        "started_at": None,
        "first_result_at": None,
        "finished_at": None,
        "error": "the archive is unreadable" if state == "failed" else None,
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Api

    def do_GET(self) -> None:
        if self._allowed():
            parts = urlsplit(self.path)
            words = parts.path.removeprefix("/api/v1/").split("/")
            self._get(words, dict(parse_qsl(parts.query)))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._allowed():
            words = urlsplit(self.path).path.removeprefix("/api/v1/").split("/")
            if words == ["jobs"]:
                self._submit(body)
            else:
                job = self.server.jobs[words[1]]
                job["state"] = job["state_text"] = {"cancel": "cancelled", "retry": "queued"}[words[2]]
                self._send(202, {"retried": 3, "job": job} if words[2] == "retry" else job)

    def do_DELETE(self) -> None:
        if self._allowed():
            job_id = self.path.removeprefix("/api/v1/jobs/")
            if job_id not in self.server.jobs:
                self._problem(404, "not-found")
            elif self.server.jobs[job_id]["state"] in ("queued", "running"):
                self._problem(409, "conflict")
            else:
                del self.server.jobs[job_id]
                self._send_bytes(204, "application/json", b"", {})

    def _allowed(self) -> bool:
        if self.server.faults and self.path != "/api/v1/jobs?limit=1" and "idempotency_key" not in self.path:
            fault = self.server.faults.pop(0)
            if isinstance(fault, int):
                self._problem(fault, "passing")
                return False
            if fault in PROXIES:
                status, kind, headers = PROXIES[fault]
                self._send_bytes(status, kind, b"<html>Please sign in</html>", headers)
                return False
            if fault == "no-model-version":
                self._problem(503, fault)
                return False
            self.fault = fault
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._problem(401, "not-signed-in")
            return False
        return True

    fault = ""

    def _submit(self, body: bytes) -> None:
        environ = {
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers["Content-Type"],
            "REQUEST_METHOD": "POST",
        }
        self.server.bodies.append((self.headers["Content-Type"], body))
        _, form, files = parse_form_data(environ)
        self.server.uploads.append([(file.filename or "", file.read()) for file in files.getlist("files")])
        self.server.fields.append(form.to_dict())
        key = self.headers["Idempotency-Key"]
        if key not in self.server.keys:
            self.server.keys[key] = self.server.add_job(name=form["name"] or "unnamed")["id"]
        self._send(202, self.server.jobs[self.server.keys[key]])

    def _get(self, words: list[str], query: dict[str, str]) -> None:
        if "idempotency_key" in query:
            job_id = None if self.server.forgets_keys else self.server.keys.get(query["idempotency_key"])
            self._send(200, {"items": [self.server.jobs[job_id]] if job_id else [], "next_cursor": None})
        elif words == ["jobs"]:
            jobs = list(self.server.jobs.values())
            start = int(query.get("cursor", 0))
            stop = start + min(int(query.get("limit", 50)), 2)
            self._send(200, {"items": jobs[start:stop], "next_cursor": str(stop) if stop < len(jobs) else None})
        elif words[1] not in self.server.jobs:
            self._problem(404, "not-found")
        elif len(words) == 2:
            self._job(words[1])
        elif words[2].startswith("findings") and self._is_open(words[1]):
            self._problem(409, "not-ended")
        elif words[2] == "findings":
            self._send(200, {"items": self.server.findings.get(words[1], []), "next_cursor": None})
        elif words[2] == "results":
            self._send(200, {"items": self.server.rows[words[1]], "next_cursor": None})
        elif words[2].endswith(".json"):
            self._send(200, {"findings": []})
        elif words[2] == "results.parquet":
            self._send_bytes(200, "application/vnd.apache.parquet", b"PAR1", {})
        else:
            headers = {"X-Incomplete": "Incomplete: 1 of 9."} if self._is_open(words[1]) else {}
            self._send_bytes(200, "text/csv", b"slice_id,name\r\n1,a.png\r\n", headers)

    def _is_open(self, job_id: str) -> bool:
        return self.server.jobs[job_id]["state"] in ("queued", "running")

    def _job(self, job_id: str) -> None:
        waiting = self.server.views.get(job_id, [])
        if waiting:
            self.server.jobs[job_id] = waiting.pop(0)
        job = self.server.jobs[job_id]
        etag = f'"{hash(json.dumps(job))}"'
        if self.headers.get("If-None-Match") == etag:
            self._send_bytes(304, "application/json", b"", {"ETag": etag})
        else:
            self._send_bytes(200, "application/json", json.dumps(job).encode(), {"ETag": etag})

    def _problem(self, status: int, slug: str) -> None:
        detail = f"It is {slug}."
        problem = {"type": f"urn:ctbatch:problem:{slug}", "title": "T", "status": status, "detail": detail}
        errors = {"query": {"limit": ["Ask for less."], "priority": [detail]}}
        self._send(status, problem | ({"errors": errors} if status == 422 else {}))

    def _send(self, status: int, value: object) -> None:
        self._send_bytes(status, "application/json", json.dumps(value).encode(), {})

    def _send_bytes(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.server.requests.append((self.command, self.path, status))
        if self.fault == "drop":  # the work is done, the answer is lost
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[Api]:
    """The API on a port of its own."""
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def untar() -> Callable[[bytes], dict[str, bytes]]:
    """Read a TAR: its members by name, in order."""

    def read(data: bytes) -> dict[str, bytes]:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    return read
