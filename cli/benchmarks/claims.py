"""Measures how fast several workers claim and record the slices of tiny jobs. Counts deadlocks. No engine runs."""

import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from queue import Empty
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError

from cli.benchmarks.server import use_home
from cli.errors import UsageError
from cli.output import print_report, progress_bar
from db import database, migrate
from db.access.accounts import create_user
from db.database import get_engine, in_transaction, read_scope, session_scope
from db.ledger import jobs, queue, recording
from db.ledger.predictions import PredictedSlice, open_slices
from db.ledger.recording import ReadSlice
from db.models import OPEN_JOB, Job, ModelVersion, Outcome, Prediction, Upload, User
from db.registry import champions
from db.settings import get_settings
from worker.engines.processor import read_processor

OWNERS = 2
FILES = 2  # uploads of a job; each upload holds one slice, which becomes one chunk
BATCH = 128  # the most slices that a worker claims at once; the default of CTBATCH_CHUNK_SLICES
POLL_SECONDS = 0.1
START_SECONDS = 300
TRIES = 5  # how often a transaction is tried if the database aborts it
CAM = bytes(98)


def run(url: str | None, workers: int, count: int, seconds: float, as_json: bool) -> None:
    """Submit jobs in rounds to workers that only claim and record. Print the speed and the number of deadlocks.

    `count`: jobs in a round. `seconds`: how long to submit rounds. `url`: an empty database, or None for SQLite in a
    temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder:
        use_home(Path(folder) / "home", url)
        migrate.upgrade()
        owners = _prepare()
        kind, deadlocks = get_engine().dialect.name, _deadlocks()
        context = get_context("spawn")
        ready, stop, results = context.Barrier(workers + 1), context.Event(), context.Queue()
        processes = [context.Process(target=_work, args=(f"bench:{n}", ready, stop, results)) for n in range(workers)]
        for process in processes:
            process.start()
        ready.wait(START_SECONDS)
        elapsed = _submit(owners, count, seconds)
        stop.set()
        errors = sum((_result(results) for _ in processes), Counter[str]())
        for process in processes:
            process.join()
        report = {
            "processor": read_processor().name,
            "database": kind,
            "workers": workers,
            **_counts(elapsed),
            "deadlocks": _deadlocks() - deadlocks,
            "transactions_broken_off": dict(errors),
        }
        get_engine().dispose()
    print_report(report, as_json)


def _result(results: Any) -> Counter[str]:
    try:
        errors: Counter[str] = results.get(timeout=120)
    except Empty:
        raise RuntimeError("a worker of the benchmark died") from None
    return errors


def _prepare() -> list[User]:
    """Make a champion without files. Make the owners of the jobs, and return them.

    Raises UsageError unless the database is empty.
    """
    with session_scope() as s:
        if s.scalar(select(func.count()).select_from(User)):
            raise UsageError("the database is not empty; name one that holds nothing")
        made_up = {"note": "", "recipe": "bench", "files": {}, "metrics": {}, "parity": {}}
        version = ModelVersion(name="bench", number=1, threshold=0.5, temperature=1.0, **made_up)
        s.add(version)
        s.flush()
        champions.record_promotion(s, version, None, "benchmark")
        return [create_user(s, f"owner-{n}", None) for n in range(OWNERS)]


def _submit(owners: list[User], count: int, seconds: float) -> float:
    """Submit `count` jobs, wait until all have ended, and repeat this until `seconds` have passed.

    Return how many seconds all rounds took.
    """
    started = time.monotonic()
    with progress_bar("claiming", seconds) as update:
        while (elapsed := time.monotonic() - started) < seconds:
            update(min(elapsed, seconds), "")
            for number in range(count):
                _submit_job(owners[number % OWNERS])
            while _is_any_open():
                time.sleep(POLL_SECONDS)
    return time.monotonic() - started


def _submit_job(owner: User) -> None:
    files = [jobs.ReceivedFile(f"{n}.png", uuid4().hex * 2, 1, "loose", 1) for n in range(FILES)]
    in_transaction(lambda s: jobs.create_job(s, owner=owner, files=files))


def _is_any_open() -> bool:
    with read_scope() as s:
        return s.scalar(select(Job.id).where(Job.state.in_(OPEN_JOB)).limit(1)) is not None


def _counts(seconds: float) -> dict[str, float]:
    with read_scope() as s:
        ended = s.scalar(select(func.count()).select_from(Job)) or 0
        slices = s.scalar(select(func.count()).select_from(Prediction)) or 0
    return {
        "jobs": ended,
        "slices": slices,
        "seconds": round(seconds, 1),
        "slices_per_second": round(slices / seconds, 1),
    }


def _deadlocks() -> int:
    """Return how many transactions PostgreSQL has aborted because of a deadlock.

    Return 0 for SQLite, which has no deadlocks.
    """
    if get_engine().dialect.name != "postgresql":
        return 0
    time.sleep(1.5)  # PostgreSQL updates its counter with a delay
    with read_scope() as s:
        query = text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(s.scalar(query) or 0)


@dataclass
class _Worker:
    """A process that does the work of ingest and inference in turn, with made-up slices and scores."""

    name: str
    errors: Counter[str] = field(default_factory=Counter)

    def next(self) -> bool:
        """Process one upload and one batch of chunks. Return False if no upload and no chunk is waiting."""
        uploaded, predicted = self._try(self._read), self._try(self._predict)
        return bool(uploaded or predicted)

    def _try(self, work: Any) -> bool:
        for _ in range(TRIES):
            try:
                return bool(work())
            except OperationalError as error:
                code = getattr(error.orig, "sqlstate", None) or type(error.orig).__name__
                self.errors[str(code)] += 1
        raise RuntimeError(f"{work.__name__} was aborted {TRIES} times")

    def _read(self) -> bool:
        with session_scope() as s:
            claim = queue.claim_upload(s, self.name)
            if claim is None:
                return False
            upload = s.get_one(Upload, claim.id, populate_existing=True)
        row = ReadSlice(
            0, 0, upload.filename, Outcome.OPEN, pixels_sha256=uuid4().hex, array_row=0, series_uid="folder:"
        )

        def record() -> bool:
            with session_scope() as s:
                recording.record_read(s, claim, upload, [row], "a" * 64)
            return True

        def close() -> bool:
            with session_scope() as s:
                recording.close_upload(s, claim, upload)
            return True

        return self._try(record) and self._try(close)

    def _predict(self) -> bool:
        with session_scope() as s:
            claimed = queue.claim_chunks(s, self.name, BATCH)
        for chunk, claim in claimed:

            def record(chunk: Any = chunk, claim: Any = claim) -> bool:
                with session_scope() as s:
                    scored = [PredictedSlice(id_, 1.0, 0.7, True, CAM) for id_ in open_slices(s, chunk.id)]
                    recording.record_predictions(s, claim, chunk, "bench", scored)
                return True

            self._try(record)
        return bool(claimed)


def _work(name: str, ready: Any, stop: Any, results: Any) -> None:
    """Claim and record work until `stop` is set. Runs in a separate process."""
    database.use(get_settings())
    worker = _Worker(name)
    ready.wait(START_SECONDS)
    while not stop.is_set():
        if not worker.next():
            time.sleep(0.01)
    results.put(worker.errors)
