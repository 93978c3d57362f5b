"""A whole ctbatch of processes, with a short lease and the fake engine, to be killed and looked into."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.builders.files import png, zip_of

PROJECT = Path(__file__).parents[2]
SHORT = {
    "CTBATCH_ENGINE": "fake",
    "CTBATCH_FAKE_SECONDS": "0.002",
    "CTBATCH_LEASE_SECONDS": "3",
    "CTBATCH_HEARTBEAT_SECONDS": "1",
    "CTBATCH_SWEEP_SECONDS": "0.5",
    "CTBATCH_RESEND_SECONDS": "2",
    "CTBATCH_STALL_SECONDS": "10",
}
PACKAGE = {  # a package without a network
    "name": "fake", "note": "for tests only", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0,
    "files": {}, "metrics": {}, "parity": {}, "dataset_hash": None, "created_at": "2026-01-01T00:00:00Z", "extra": {},
}  # fmt: skip
PREPARE = """
import sys
from pathlib import Path
from db import migrate
from db.registry import champions, versions
from db.database import session_scope
migrate.upgrade()
folder = Path(sys.argv[1])
stored = versions.store_package(folder)
with session_scope() as s:
    champions.record_promotion(s, versions.register_package(s, stored), None, "for the test")
"""


class Whole:
    """`ctbatch up` in a home of its own, and what a client needs to use it."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = os.environ | SHORT | environment | {"CTBATCH_HOME": str(home), "PYTHONPATH": str(PROJECT)}
        for name in ("DATABASE_URL", "CELERY_BROKER_URL", "CTBATCH_SERVER", "CTBATCH_TOKEN"):
            if name not in environment:
                self.environment.pop(name, None)
        self.process: subprocess.Popen[bytes] | None = None

    def prepare(self) -> None:
        """A champion for the fake engine."""
        self.home.mkdir(parents=True)
        package = self.home / "package"
        package.mkdir()
        (package / "package.json").write_text(json.dumps(PACKAGE))
        self.run_python(PREPARE, str(package))

    def run_python(self, code: str, *arguments: str) -> str:
        """Run code with this home's settings; what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=self.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        """Start everything and wait until it is ready."""
        log = (self.home / "test-up.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "up", "--port", "0"],
            env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for the file that `up` leaves for the command line, written by the process that runs now."""
        assert self.process is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.home / "test-up.log").read_text()[-4000:]
            try:
                local = json.loads((self.home / "run/local.json").read_text())
            except (OSError, ValueError):
                local = {}
            if local.get("pid") == self.process.pid:
                self.url, self.token = local["url"], local["token"]
                return
            time.sleep(0.1)
        raise AssertionError("not ready in 60 s: " + (self.home / "test-up.log").read_text()[-4000:])

    def stop(self) -> None:
        """Stop everything in order."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One call of the API, tried again while the server is away."""
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        for _ in range(100):
            try:
                return httpx.request(method, f"{self.url}/api/v1{path}", headers=headers, timeout=60, **options)
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError("the web process did not come back")

    def submit(self, archive: bytes, key: str) -> str:
        """Submit an archive; the job's id."""
        files = {"files": ("slices.zip", archive, "application/zip")}
        answer = self.request("POST", "/jobs", files=files, headers={"Idempotency-Key": key})
        assert answer.status_code in (200, 202), answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as the API shows it."""
        view: dict[str, Any] = self.request("GET", f"/jobs/{job_id}").json()
        return view

    def wait(self, job_id: str, seconds: float = 120) -> dict[str, Any]:
        """Wait for the job's end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if job["state"] not in ("queued", "running"):
                return job
            time.sleep(0.2)
        raise AssertionError(f"not ended in {seconds} s: {job}\n" + (self.home / "test-up.log").read_text()[-4000:])

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Every process of this home by what it is, e.g. `inference`, `inference child`, `decoder`."""
        assert self.process is not None
        processes: dict[str, list[psutil.Process]] = {"supervisor": [psutil.Process(self.process.pid)]}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command, parent = " ".join(process.cmdline()), process.parent()
            except psutil.Error:
                continue
            processes.setdefault(self._name(command, parent), []).append(process)
        return processes

    def _name(self, command: str, parent: psutil.Process | None) -> str:
        roles = {"-Q ingest": "ingest", "-Q inference": "inference", "-Q training": "training",
                 "-Q evaluation": "evaluation", "worker.sweep": "sweep",
                 "gunicorn": "web", "valkey": "broker", "redis-server": "broker"}  # fmt: skip
        role = next((role for mark, role in roles.items() if mark in command), "decoder")
        try:
            above = " ".join(parent.cmdline()) if parent else ""
        except psutil.Error:
            above = ""
        is_child = any(mark in above for mark, name in roles.items() if name == role and role != "decoder")
        return f"{role} child" if is_child else role


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    """A ctbatch that runs, with a champion."""
    system = Whole(tmp_path / "home")
    system.prepare()
    system.start()
    yield system
    system.stop()


def slices_zip(count: int, seed: int = 0) -> bytes:
    """An archive of small slices of their own pixels, and a file that is no image."""
    slices = {f"s/{number:05}.png": png(100_000 * seed + number, 24) for number in range(count)}
    return zip_of({"readme.txt": b"not an image"} | slices)


@pytest.fixture
def make_archive() -> Any:
    """`slices_zip`."""
    return slices_zip
