"""`kill -9` of any one process, at work: after its restart every slice has exactly one outcome, and the right score."""

import io
import os
import signal
import time
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.system.conftest import Whole
from worker.engines.fake import KILLS

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(240)]
SLICES = 1200

CHECK = """
import json, sys
from collections import Counter
from sqlalchemy import select
from db.database import read_scope
from db.models import Job, Prediction, Slice
from db.series.images import slice_image
from worker.engines.fake import expected_logit
with read_scope() as s:
    job = s.get_one(Job, sys.argv[1])
    ids = s.scalars(select(Slice.id).where(Slice.job_id == job.id, Slice.state == "predicted")).all()
    logits = dict(s.execute(select(Prediction.slice_id, Prediction.logit)).all())
    wrong = sum(logits[i] != expected_logit(slice_image(s, job, i).pixels) for i in ids)
    per_slice = Counter(s.scalars(select(Prediction.slice_id).where(Prediction.job_id == job.id)))
    names = Counter(s.scalars(select(Slice.name).where(Slice.job_id == job.id)))
    print(json.dumps({"predicted": len(ids), "wrong": wrong, "doubled": sum(n > 1 for n in per_slice.values()),
                      "repeated": sum(n > 1 for n in names.values()), "names": len(names)}))
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """One ctbatch for all tests of this file: each leaves it as whole as it found it, or something is wrong."""
    system = Whole(tmp_path_factory.mktemp("kill") / "home")
    system.prepare()
    yield system
    system.stop()


@pytest.fixture
def whole(running: Whole) -> Whole:
    """That ctbatch, started again where a test that failed left it down."""
    if running.process is None or running.process.poll() is not None:
        running.start()
    return running


@pytest.fixture
def archive(request: pytest.FixtureRequest, make_archive: Any) -> bytes:
    """Slices of this test's own pixels: predictions that are there already would be copied."""
    return bytes(make_archive(SLICES, seed=zlib.crc32(request.node.name.encode())))


def at_work(whole: Whole, job_id: str) -> None:
    """Wait until slices are being read and predicted, and neither is done."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job = whole.job(job_id)
        if job["counts"]["predicted"] > 0:
            assert job["state"] == "running", "the job was over before anything could be killed"
            return
        time.sleep(0.05)
    raise AssertionError("nothing was predicted")


def check(whole: Whole, job_id: str) -> None:
    """Every entry has one row and one outcome, every score is its slice's."""
    import json

    job = whole.wait(job_id)
    counts = job["counts"]
    assert job["state"] == "finished", job
    assert counts["received"] == SLICES + 1
    assert counts["received"] == counts["predicted"] + counts["rejected"] + counts["quarantined"] + counts["cancelled"]
    counted = json.loads(whole.run_python(CHECK, job_id))
    assert (counted["wrong"], counted["doubled"], counted["repeated"], counted["names"]) == (0, 0, 0, SLICES + 1)
    assert counts["predicted"] == SLICES
    assert job["rejections"] == {"format": 1}


@pytest.mark.parametrize(
    "victim",
    ["broker", "web", "web child", "ingest", "ingest child", "decoder", "inference", "inference child", "training",
     "evaluation", "sweep"],
)  # fmt: skip
def test_kill_one_process(victim: str, whole: Whole, archive: bytes) -> None:
    job_id = whole.submit(archive, "kill-" + victim.replace(" ", "-"))
    at_work(whole, job_id)
    processes = whole.processes()
    assert victim in processes, sorted(processes)
    os.kill(processes[victim][0].pid, signal.SIGKILL)
    check(whole, job_id)


def test_kill_the_supervisor_and_start_again(whole: Whole, archive: bytes) -> None:
    job_id = whole.submit(archive, "kill-supervisor")
    at_work(whole, job_id)
    others = [p for name, group in whole.processes().items() if name != "supervisor" for p in group]
    os.kill(whole.process.pid, signal.SIGKILL)
    whole.process.wait(10)
    deadline = time.monotonic() + 15
    while any(p.is_running() and p.status() != "zombie" for p in others) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [p for p in others if p.is_running() and p.status() != "zombie"] == []
    whole.start()
    check(whole, job_id)


def test_stopped_in_order_and_started_again(whole: Whole, archive: bytes) -> None:
    job_id = whole.submit(archive, "stop")
    at_work(whole, job_id)
    whole.stop()
    whole.start()
    check(whole, job_id)


def test_an_acknowledged_submission_survives_a_kill_before_its_message(whole: Whole, archive: bytes) -> None:
    broker = whole.processes()["broker"][0]
    os.kill(broker.pid, signal.SIGSTOP)  # messages go nowhere
    try:
        job_id = whole.submit(archive, "no-broker")
    finally:
        os.kill(broker.pid, signal.SIGKILL)
    check(whole, job_id)
    assert whole.submit(archive, "no-broker") == job_id


def test_a_slice_that_kills_the_engine_is_quarantined_alone(whole: Whole) -> None:
    rng = np.random.default_rng(1)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for number in range(40):
            pixels = rng.integers(0, 255, (224, 224), dtype=np.uint8)
            if number == 23:
                pixels[0, :16] = np.frombuffer(KILLS, np.uint8)
            image = io.BytesIO()
            Image.fromarray(pixels).save(image, "PNG")
            packed.writestr(f"{number}.png", image.getvalue())
    job = whole.wait(whole.submit(buffer.getvalue(), "poison"), seconds=200)
    assert job["state"] == "finished"
    assert (job["counts"]["predicted"], job["counts"]["quarantined"]) == (39, 1)
    rows = whole.request("GET", f"/jobs/{job['id']}/results", params={"state": "quarantined"}).json()["items"]
    assert [(row["name"], row["reason"]) for row in rows] == [("23.png", "worker_lost")]
