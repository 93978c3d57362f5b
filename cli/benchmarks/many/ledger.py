"""Measures how many slices/s the database records, for slices that were read and for slices that were predicted.

No file is read and no engine runs.
"""

import tempfile
import time
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import func, select

from cli.benchmarks.many import rows, servers
from cli.benchmarks.server import use_home
from cli.benchmarks.watch.others import marks, raise_if_spoilt, watched
from cli.errors import UsageError
from cli.output import print_report
from db import database, migrate
from db.access.accounts import create_user
from db.database import get_engine, in_transaction, session_scope
from db.evaluation.promotion import promote_first
from db.ledger import jobs, queue, recording
from db.ledger.leases import Claim
from db.ledger.predictions import open_slices
from db.ledger.recording import ScoredChunk
from db.models import Chunk, Upload, User
from db.registry import versions
from db.settings import get_settings
from worker.engines.processor import read_processor
from worker.jobs.predict import MOST_CLAIMED

WAIT_SECONDS = 300
PHASES = ("read", "closed", "predicted")


def run(url: str | None, own: bool, slices: int, processes: int, shown: bool, as_json: bool) -> None:
    """Record one job in each process, in three phases: record the slices, close the upload, record the predictions.

    Print the slices/s of each phase, and of all three together. `url`: an empty database. `own`: start a PostgreSQL
    server. Without `url` and `own`, use SQLite. Raise Unavailable if other processes disturbed the run. If `shown`,
    print the values and mark them as disturbed instead.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctbatch-bench-")))
        use_home(folder / "home", stack.enter_context(servers.postgres(folder)) if own else url)
        prepare(folder)
        kind = get_engine().dialect.name
        with watched() as disturbance:
            seconds = _timed(slices // processes, processes)
        get_engine().dispose()
    raise_if_spoilt(disturbance, shown)
    report = {
        "processor": read_processor().line,
        "database": kind,
        "processes": processes,
        "slices": slices // processes * processes,
        "slices_per_second": {phase: round(slices / seconds[phase]) for phase in PHASES}
        | {"whole": round(slices / sum(seconds.values()))},
        **marks(disturbance),
    }
    print_report(report, as_json)


def prepare(folder: Path) -> None:
    """Make the tables, a champion without a network, and a user. Raises UsageError unless the database is empty."""
    migrate.upgrade()
    stored = versions.store_package(rows.write_package(folder / "package"))
    with session_scope() as s:
        if s.scalar(select(func.count()).select_from(User)):
            raise UsageError("the database is not empty; name one that holds nothing")
        promote_first(s, versions.register_package(s, stored), "benchmark")
        create_user(s, "bench", None)


def _timed(slices: int, processes: int) -> dict[str, float]:
    context = get_context("spawn")
    barrier = context.Barrier(processes + 1)
    workers = [context.Process(target=_work, args=(number, slices, barrier)) for number in range(processes)]
    for worker in workers:
        worker.start()
    barrier.wait(WAIT_SECONDS)
    seconds = {}
    for phase in PHASES:
        started = time.monotonic()
        barrier.wait(WAIT_SECONDS)
        seconds[phase] = time.monotonic() - started
    for worker in workers:
        worker.join()
    return seconds


def _work(number: int, slices: int, barrier: Any) -> None:
    """Record one job, phase by phase. Begin each phase at the same time as the other processes."""
    database.use(get_settings())
    file = jobs.ReceivedFile("bench.zip", uuid4().hex * 2, 1, "zip", slices)
    with session_scope() as s:
        jobs.create_job(s, owner=s.scalars(select(User)).one(), files=[file])
    claim, upload = in_transaction(lambda s: _claim(s, f"bench:{number}"))
    barrier.wait(WAIT_SECONDS)
    for start in range(0, slices, rows.CHUNK):
        prepared = rows.read_rows(start, min(rows.CHUNK, slices - start), str(number))
        with session_scope() as s:
            recording.record_read(s, claim, upload, prepared, "a" * 64)
    barrier.wait(WAIT_SECONDS)
    with session_scope() as s:
        recording.close_upload(s, claim, upload)
    barrier.wait(WAIT_SECONDS)
    while predict_some(f"bench:{number}"):
        pass
    barrier.wait(WAIT_SECONDS)
    get_engine().dispose()


def _claim(s: Any, worker: str) -> Any:
    claim = queue.claim_upload(s, worker)
    if claim is None:
        raise RuntimeError("the upload of the benchmark cannot be claimed")
    return claim, s.get_one(Upload, claim.id, populate_existing=True)


def predict_some(worker: str) -> bool:
    """Claim as many chunks as a worker with a quick engine does, and record made-up scores of their slices.

    Return False if no chunk is waiting.
    """
    claimed = in_transaction(lambda s: queue.claim_chunks(s, worker, MOST_CLAIMED))
    by_job: dict[str, list[tuple[Chunk, Claim]]] = {}
    for chunk, claim in claimed:
        by_job.setdefault(chunk.job_id, []).append((chunk, claim))
    for of_job in by_job.values():
        with session_scope() as s:
            done = [ScoredChunk(chunk, claim, rows.scores(open_slices(s, chunk.id))) for chunk, claim in of_job]
            recording.record_chunks(s, "fake", done)
    return bool(claimed)
