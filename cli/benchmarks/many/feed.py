"""Runs on the simulated host `ingest`: makes jobs of prepared chunks, releases them, and waits until they end.

`python -m cli.benchmarks.many.feed` reads a JSON command from each line of stdin, and answers it with a line of JSON.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
from sqlalchemy import func, select, update

from cli.benchmarks.many import rows
from cli.benchmarks.many.servers import BUCKET
from db import broker, migrate
from db.access.accounts import create_user
from db.broker import Queue
from db.clock import from_now
from db.database import current, get_engine, read_scope, session_scope
from db.evaluation.promotion import promote_first
from db.installation import claim_storage
from db.ledger import completion, jobs, leases, queue, recording
from db.ledger.leases import Claim
from db.models import OPEN_WORK, Chunk, Job, JobState, Prediction, Upload, User, Work
from db.registry import versions
from db.storage import storage
from worker.decoding import npy_bytes

FILES = 127  # chunk files, which the chunks share. 127 is a prime, so a device seldom gets the same file twice
HELD_SECONDS = leases.FAR_SECONDS
LIMIT_SECONDS = 300.0


def prepare() -> dict[str, Any]:
    """Make the database, the bucket, a user, and a champion without a network."""
    migrate.upgrade()
    fs, _ = fsspec.core.url_to_fs(current().storage)
    fs.mkdir(BUCKET)
    with tempfile.TemporaryDirectory() as folder:
        stored = versions.store_package(rows.write_package(Path(folder) / "package"))
    with session_scope() as s:
        promote_first(s, versions.register_package(s, stored), "benchmark")
        claim_storage(s)
        create_user(s, "bench", None)
    return {"ready": True}


def store(count: int) -> dict[str, Any]:
    """Store `count` chunk files of 128 slices. No two files are equal. Return the files and the MB/s."""
    pixels = np.random.default_rng(0).integers(0, 255, (rows.CHUNK, 224, 224), np.uint8)
    started = time.monotonic()
    files = []
    for number in range(count):
        pixels[:, 0, :4] = np.frombuffer(np.uint32(number).tobytes(), np.uint8)
        files.append(storage().put(npy_bytes(list(pixels))))
    seconds = time.monotonic() - started
    megabytes = count * pixels.nbytes / 1e6
    return {"files": files, "megabytes_per_second": round(megabytes / seconds, 1)}


def feed(files: list[str], chunks: int) -> dict[str, Any]:
    """Record a job of `chunks` prepared chunks, which nobody can claim yet. The chunks use `files` in turn.

    Return the job's id, the slices/s recorded, and the seconds to close the upload.
    """
    claim, upload = _new_job(chunks * rows.CHUNK)
    started = time.monotonic()
    salt = uuid4().hex
    for number in range(chunks):
        prepared = rows.read_rows(number * rows.CHUNK, rows.CHUNK, salt)
        with session_scope() as s:
            recording.record_read(s, claim, upload, prepared, files[number % len(files)])
            held = update(Chunk).where(Chunk.job_id == upload.job_id, Chunk.lease_until.is_(None))
            s.execute(held.values(lease_until=from_now(HELD_SECONDS)))
    seconds = time.monotonic() - started
    closing = time.monotonic()
    with session_scope() as s:
        recording.close_upload(s, claim, upload)
    completion.finish_in_steps(upload.job_id)  # because no sweeper runs here
    return {
        "job": upload.job_id,
        "recorded_per_second": round(chunks * rows.CHUNK / seconds, 1),
        "closing_seconds": round(time.monotonic() - closing, 2),
    }


def _new_job(entries: int) -> tuple[Claim, Upload]:
    file = jobs.ReceivedFile("bench.zip", uuid4().hex * 2, 1, "zip", entries)
    with session_scope() as s:
        owner = s.scalars(select(User)).one()
        jobs.create_job(s, owner=owner, files=[file])
        claim = queue.claim_upload(s, "bench")
        if claim is None:
            raise RuntimeError("the upload of the benchmark cannot be claimed")
        return claim, s.get_one(Upload, claim.id, populate_existing=True)


def release(job: str) -> dict[str, Any]:
    """Let the workers claim a job's chunks, wait until the job ends, and return its slices/s."""
    with session_scope() as s:
        freed = update(Chunk).where(Chunk.job_id == job, Chunk.state == Work.READY)
        s.execute(freed.values(lease_until=None, published_at=from_now()))
        count = s.scalar(select(func.count()).where(Chunk.job_id == job, Chunk.state.in_(OPEN_WORK))) or 0
    started = time.monotonic()
    for _ in range(count):
        broker.wake(Queue.INFERENCE)
    while not _has_ended(job):
        if time.monotonic() - started > LIMIT_SECONDS:
            raise RuntimeError(f"the job has not ended after {LIMIT_SECONDS:.0f} s")
        time.sleep(0.05)
        completion.finish_in_steps(job)
    seconds = time.monotonic() - started
    with read_scope() as s:
        slices = s.scalar(select(func.count()).where(Prediction.job_id == job)) or 0
    return {"slices": slices, "seconds": round(seconds, 2), "slices_per_second": round(slices / seconds, 1)}


def _has_ended(job: str) -> bool:
    with read_scope() as s:
        return s.scalar(select(Job.state).where(Job.id == job)) not in (JobState.QUEUED, JobState.RUNNING)


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "store": store,
    "feed": feed,
    "release": release,
}


def main() -> None:
    """Carry out commands until stdin ends."""
    for line in sys.stdin:
        command = json.loads(line)
        answer = ACTIONS[command.pop("do")](**command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    get_engine().dispose()


if __name__ == "__main__":
    main()
