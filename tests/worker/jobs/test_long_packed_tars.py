"""Packed TARs of which only the beginning was looked at when they were received."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from db.database import session_scope
from db.ledger import jobs
from db.ledger.job_view import JobView
from db.ledger.leases import StaleClaim
from db.models import Job, JobState, Upload, User
from db.storage import storage
from tests.builders.files import png, tar_of
from tests.builders.leases import let_leases_end
from worker.imaging.archives import archive
from worker.jobs import ingest, predict
from worker.received_files import inspect_received

SLICES = 24
TAR = tar_of({f"s/{n:02}.png": png(n, size=160) for n in range(SLICES)})  # noise, 25 kB each

pytestmark = pytest.mark.usefixtures("champion")
View = Callable[[Job], JobView]


@pytest.fixture
def receive(ann: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], Job]:
    """Receive a packed TAR as the web does, with a look at its first quarter of a megabyte."""
    monkeypatch.setattr(archive, "LOOKED_BYTES", 256 * 1024)

    def act(packed: bytes) -> Job:
        path = tmp_path / "s.tar.gz"
        path.write_bytes(packed)
        with storage().receive() as receiver:
            receiver.write(packed)
            file = inspect_received(path, path.name, receiver.finish(), whole=False)
            receiver.publish()
        assert (file.kind, file.entries) == ("tar.gz", None)
        with session_scope() as s:
            return jobs.create_job(s, owner=ann, files=[file])[0]

    return act


def work() -> None:
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def test_every_slice_gets_its_outcome(receive: Callable[[bytes], Job], view: View) -> None:
    job = receive(gzip.compress(TAR))
    assert not view(job).stages.total_known
    work()
    done = view(job)
    assert (done.state, done.counts.predicted) == (JobState.FINISHED, SLICES)
    assert (done.stages.total_known, done.stages.total) == (True, SLICES)


def test_reading_that_was_broken_off_goes_on_to_the_end(
    receive: Callable[[bytes], Job], view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = receive(gzip.compress(TAR))
    with monkeypatch.context() as patch:

        def lose(*_: object) -> None:
            raise StaleClaim("the worker was too slow")

        patch.setattr(ingest.recording, "close_upload", lose)  # all is recorded, and the upload is not closed
        assert ingest.unpack_next("w")
    let_leases_end(Upload)
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, SLICES)


def test_damage_further_on_ends_the_job_with_its_code(receive: Callable[[bytes], Job], view: View) -> None:
    job = receive(gzip.compress(TAR)[:-50_000])
    work()
    ended = view(job)
    assert ended.state == JobState.FAILED
    assert (ended.error or "").startswith("truncated_archive")
    assert 0 < ended.counts.predicted < SLICES
    assert ended.counts.received == ended.counts.predicted
