"""A large packed TAR that is interrupted, or cancelled, at 60 %.

`LARGE_TAR_BYTES` sets the size of the TAR unpacked; the largest that was tried is in docs/benchmarks.md.
"""

import gzip
import io
import itertools
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select

from db import database as base
from db.database import read_scope, session_scope
from db.ledger import jobs
from db.ledger.job_view import JobView
from db.models import Job, JobState, Slice, Upload, User
from db.settings import MIB, Settings
from db.storage import storage
from tests.builders.leases import let_leases_end
from worker.jobs import predict
from worker.received_files import receive_file

PROJECT = Path(__file__).parents[3]
SIZE = int(os.environ.get("LARGE_TAR_BYTES", 512 * MIB))
SIDE = 1024  # of a picture, one byte a pixel
PICTURES = 20  # different ones
NOISE_ROWS = 16  # of a picture, so that it packs to a sixtieth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.usefixtures("champion")]
View = Callable[[Job], JobView]


def packed_tar(count: int) -> Iterator[bytes]:
    """A .tar.gz of so many pictures, in pieces: it is nowhere as a whole."""
    pictures = [picture(seed) for seed in range(PICTURES)]
    buffer = io.BytesIO()
    packer = gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1)
    with packer, tarfile.open(fileobj=packer, mode="w|") as tar:
        for number, data in zip(range(count), itertools.cycle(pictures), strict=False):
            member = tarfile.TarInfo(f"scan/{number:06}.bmp")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            yield taken(buffer)
    yield taken(buffer)


def picture(seed: int) -> bytes:
    pixels = np.full((SIDE, SIDE), seed, np.uint8)
    pixels[:NOISE_ROWS] = np.random.default_rng(seed).integers(0, 256, (NOISE_ROWS, SIDE), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "BMP")
    return buffer.getvalue()


def taken(buffer: io.BytesIO) -> bytes:
    """What was written to the buffer, which is empty afterwards."""
    data = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return data


def start_ingest(settings: Settings) -> subprocess.Popen[bytes]:
    """An ingest process that ends when there is nothing to unpack."""
    environment = {
        "CTBATCH_HOME": str(settings.home),
        "DATABASE_URL": settings.database_url,
        "CELERY_BROKER_URL": settings.broker_url,
        "PYTHONPATH": str(PROJECT),
    }
    code = "from worker.jobs import ingest\nwhile ingest.unpack_next('w'): pass"
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | environment)


def wait_for(process: subprocess.Popen[bytes], job: Job, share: float, count: int) -> None:
    """Wait until this share of a job's entries is recorded."""
    recorded = select(func.count(Slice.id)).where(Slice.job_id == job.id)
    while process.poll() is None:
        with read_scope() as s:
            if (s.scalar(recorded) or 0) >= share * count:
                return
        time.sleep(0.2)
    raise AssertionError("all was unpacked before the share was seen")


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_large_packed_tar_ends_right_after_interruptions_and_after_a_cancel(
    database: Settings, ann: User, view: View
) -> None:
    count = SIZE // SIDE**2
    file = receive_file("large.tar.gz", packed_tar(count))
    with session_scope() as s:
        interrupted = jobs.create_job(s, owner=ann, files=[file])[0]
    for share in (0.6, 0.8):
        process = start_ingest(database)
        wait_for(process, interrupted, share, count)
        process.kill()
        process.wait()
        let_leases_end(Upload)
    process = start_ingest(database)
    assert process.wait() == 0
    while predict.predict_next("w"):
        pass
    done = view(interrupted)
    assert done.state == JobState.FINISHED
    assert (done.counts.received, done.counts.predicted) == (count, count)
    assert list(storage().incoming.folder.iterdir()) == []

    with session_scope() as s:
        cancelled = jobs.create_job(s, owner=ann, files=[file])[0]
    process = start_ingest(database)
    wait_for(process, cancelled, 0.6, count)
    with session_scope() as s:
        jobs.cancel_job(s, cancelled)
    assert process.wait() == 0
    ended = view(cancelled)
    assert ended.state == JobState.CANCELLED
    assert ended.counts.received == count
    assert ended.counts.cancelled > 0
    assert ended.counts.cancelled + ended.counts.predicted == count
    with read_scope() as s:
        of_job = select(func.count(Slice.ordinal.distinct())).where(Slice.job_id == cancelled.id)
        assert s.scalar(of_job) == count
    base.get_engine().dispose()
