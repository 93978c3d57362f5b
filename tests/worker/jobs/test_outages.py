"""What a worker does while database or storage are away, and with work that is no longer its own."""

import errno
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from psycopg import errors
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db import background
from db import database as base
from db.clock import from_now
from db.database import read_scope, session_scope
from db.installation import adopt_storage
from db.ledger import job_view, jobs, leases, queue, recording
from db.ledger.predictions import PredictedSlice
from db.models import Chunk, Job, JobState, ModelVersion, Prediction, Upload, User, Work
from db.registry import versions
from db.settings import Settings
from db.storage import FileMissing, Storage, storage
from tests.builders.buckets import bucket_away
from tests.builders.statements import locked_at_first
from tests.builders.versions import add_champion
from tests.worker.jobs.test_main_job import run_apart
from worker import sweep
from worker.heartbeat import Heartbeat
from worker.jobs import ingest, loaded_engines, predict, shares

Entries = Callable[..., dict[str, bytes]]
View = Callable[[Job], job_view.JobView]

pytestmark = pytest.mark.usefixtures("champion")


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.claimed.WAIT_SECONDS", 0.0)


def away(times: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that the database is away for at first."""
    left = iter(range(times))

    def act(*values: Any, **named: Any) -> Any:
        if next(left, None) is not None:
            raise OperationalError("BEGIN", None, Exception("connection refused"))
        return call(*values, **named)

    return act


def test_scores_are_kept_until_the_database_is_back(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(5))
    ingest.unpack_next("w")
    monkeypatch.setattr(recording, "record_predictions", away(20, recording.record_predictions))
    assert predict.predict_next("w")
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 5)
    with read_scope() as s:
        assert s.scalars(select(Chunk.fence)).all() == [1]


def test_read_slices_are_kept_until_the_database_is_back(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(5))
    for name in ("record_read", "close_upload"):
        monkeypatch.setattr(recording, name, away(20, getattr(recording, name)))
    assert ingest.unpack_next("w")
    assert (view(job).stages.unpacked, view(job).counts.open) == (1, 5)
    with read_scope() as s:
        assert s.scalars(select(Upload.fence)).all() == [1]


def test_work_is_put_off_once_the_database_is_back(
    ann: User, submit: Any, slices: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(ann, slices(5))
    ingest.unpack_next("w")
    monkeypatch.setattr(predict, "_pixels", away(1, predict._pixels))
    monkeypatch.setattr(leases, "put_off", away(20, leases.put_off))
    assert predict.predict_next("w")
    with read_scope() as s:
        assert s.execute(select(Chunk.state, Chunk.put_offs, Chunk.attempts)).all() == [(Work.READY, 1, 0)]


def test_claims_that_meet_a_locked_database_are_made_again(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(5))
    for name in ("claim_upload", "claim_chunks"):
        monkeypatch.setattr(queue, name, locked_at_first(getattr(queue, name)))
    assert ingest.unpack_next("w")
    assert predict.predict_next("w")
    assert view(job).counts.predicted == 5


@pytest.mark.slow
def test_volume_that_is_not_mounted_costs_no_attempt(
    ann: User, submit: Any, slices: Entries, view: View, database: Settings
) -> None:
    unread, read = submit(ann, slices(3)), submit(ann, slices(3, start=10))
    assert ingest.unpack_next("w")
    files = Path(storage().folder)
    mounted = files.rename(files.with_name("elsewhere"))
    (files / "incoming").mkdir(parents=True)  # as a process does that starts meanwhile
    for _ in range(2 * predict.MAX_ATTEMPTS):
        assert ingest.unpack_next("w")
        assert predict.predict_next("w")
        let_time_pass()
    assert {view(job).state for job in (unread, read)} == {JobState.RUNNING}
    (files / "incoming").rmdir()
    files.rmdir()
    mounted.rename(files)
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass
    assert {(view(job).state, view(job).counts.predicted) for job in (unread, read)} == {(JobState.FINISHED, 3)}


def test_bucket_that_cannot_be_reached_costs_no_attempt(
    ann: User,
    submit: Any,
    slices: Entries,
    view: View,
    database: Settings,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    base.use(database.model_copy(update={"storage_url": f"bucket://{tmp_path.name}"}))
    with session_scope() as s:
        adopt_storage(s)
    add_champion(database.home, "bucket")
    job = submit(ann, slices(3))
    for model, work in ((Upload, ingest.unpack_next), (Chunk, predict.predict_next)):
        for copy in (database.home / "cache").glob("??/*"):
            copy.unlink()
        with bucket_away("ExpiredToken"):
            assert work("w")
        assert caplog.records[-1].reason.endswith("ExpiredToken")
        with read_scope() as s:
            assert s.execute(select(model.state, model.attempts, model.put_offs)).one() == (Work.READY, 0, 1)
        let_time_pass()
        assert work("w")
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 3)


def lose(path: Path, _: pytest.MonkeyPatch) -> None:
    path.unlink()


def damage(path: Path, _: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"other bytes")


def make_unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def open_(self: Path, *given: Any, **named: Any) -> Any:
        if self == path:
            raise OSError(errno.EIO, "Input/output error")
        return opened(self, *given, **named)

    monkeypatch.setattr(Path, "open", open_)


@pytest.mark.parametrize("harm", [lose, damage, make_unreadable], ids=lambda harm: harm.__name__)
def test_chunk_whose_file_is_lost_does_not_keep_others_from_being_predicted(
    harm: Callable[[Path, pytest.MonkeyPatch], None],
    ann: User,
    bob: User,
    submit: Any,
    slices: Entries,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost, healthy = submit(ann, slices(3)), submit(bob, slices(5, start=100))
    while ingest.unpack_next("w"):
        pass
    with read_scope() as s:
        file = storage().local_path(s.scalars(select(Chunk.array_sha256).where(Chunk.job_id == lost.id)).one())
    harm(file, monkeypatch)
    assert predict.predict_next("w")
    assert (view(healthy).state, view(healthy).counts.predicted) == (JobState.FINISHED, 5)
    with read_scope() as s:
        chunk = s.scalars(select(Chunk).where(Chunk.job_id == lost.id)).one()
    assert (chunk.state, chunk.attempts, chunk.put_offs) == (Work.READY, 1, 1)
    for _ in range(predict.MAX_ATTEMPTS - 1):
        let_time_pass()
        assert predict.predict_next("w")
    assert (view(lost).state, view(lost).rejections) == (JobState.FINISHED, {"file_lost": 3})


@pytest.mark.parametrize("attempts", [0, predict.MAX_ATTEMPTS])
@pytest.mark.parametrize("error", [OSError("the storage is away"), FileMissing("lost")], ids=["away", "lost"])
def test_job_that_is_cancelled_while_its_chunk_cannot_be_read_ends(
    error: Exception,
    attempts: int,
    ann: User,
    submit: Any,
    slices: Entries,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = submit(ann, slices(3))
    assert ingest.unpack_next("w")

    def cancel_and_fail(*_: Any) -> None:
        with session_scope() as s:
            jobs.cancel_job(s, job)
        raise error

    with session_scope() as s:
        s.execute(update(Chunk).values(attempts=attempts))
    monkeypatch.setattr(storage(), "verified_path", cancel_and_fail)
    assert predict.predict_next("w")
    assert (view(job).state, view(job).counts.cancelled) == (JobState.CANCELLED, 3)


def let_time_pass() -> None:
    """As if the minute were over for which work was put off."""
    with session_scope() as s:
        for model in (Upload, Chunk):
            s.execute(update(model).where(model.state == Work.READY).values(lease_until=from_now(-1)))


def too_slow(*_: object, **__: object) -> None:
    """A call whose statement PostgreSQL ends because it takes too long."""
    raise OperationalError("SELECT", None, errors.QueryCanceled("canceling statement due to statement timeout"))


def tried(work: Callable[[str], bool], model: type[Upload] | type[Chunk]) -> int:
    """Do work until nothing is open, without the pauses between the tries. Return how often it was tried."""
    for tries in range(1, 20):
        assert work("w")
        with session_scope() as s:
            s.execute(update(model).where(model.state == Work.READY).values(lease_until=None))
            if s.scalar(select(model.id).where(model.state == Work.READY)) is None:
                return tries
    raise AssertionError("it is tried for ever")


def test_upload_whose_statements_take_too_long_fails_after_five_tries(
    ann: User, submit: Any, slices: Entries, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = submit(ann, slices(1))
    with monkeypatch.context() as patched:
        patched.setattr(recording, "record_read", too_slow)
        assert tried(ingest.unpack_next, Upload) == ingest.MAX_ATTEMPTS
    with read_scope() as s:
        assert s.scalars(select(Upload.error)).all() == ["database_slow"]
        assert s.get_one(Job, job.id).state == JobState.FAILED
    assert {getattr(record, "reason", None) for record in caplog.records if "put off" in record.message} == {
        "database_slow"
    }


def test_slices_whose_statements_take_too_long_are_quarantined_after_ten_tries(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(1))
    assert ingest.unpack_next("w")
    monkeypatch.setattr(recording, "record_chunks", too_slow)
    assert tried(predict.predict_next, Chunk) == predict.MAX_ATTEMPTS
    assert view(job).rejections == {"database_slow": 1}


def test_known_predictions_are_not_copied_under_a_claim_that_is_lost(
    ann: User, bob: User, submit: Any, slices: Entries, view: View
) -> None:
    slow, quick = submit(ann, slices(1)), submit(bob, slices(1))
    assert ingest.unpack_next("w")
    assert ingest.unpack_next("w")
    with read_scope() as s:
        mine, other = (s.scalars(select(Chunk).where(Chunk.job_id == job.id)).one() for job in (slow, quick))
    with session_scope() as s:
        stale = leases.take(s, Chunk, mine.id, "slow")
        assert stale is not None
        s.execute(update(Chunk).where(Chunk.id == mine.id).values(lease_until=from_now(-1)))
    sweep.sweep_ledger()
    with session_scope() as s:
        own = leases.take(s, Chunk, other.id, "quick")
        assert own is not None
        known = PredictedSlice(other.id, 1.0, 0.7, True, bytes(98))
        recording.record_predictions(s, own, other, "openvino-f32", [known])
    assert view(quick).counts.predicted == 1
    assert shares.open_shares([(mine, stale)]) == []
    with read_scope() as s:
        assert s.scalars(select(Prediction.job_id)).all() == [quick.id]
    with session_scope() as s:
        assert queue.claim_chunks(s, "w", 1)


def test_chunk_that_someone_else_has_does_not_keep_the_others_of_its_job_from_being_recorded(
    ann: User, submit: Any, slices: Entries, view: View
) -> None:
    job = submit(ann, slices(24))
    assert ingest.unpack_next("w")
    with session_scope() as s:
        taken = queue.claim_chunks(s, "w", 24)
    assert [chunk.size for chunk, _ in taken] == [8, 16]
    opened = shares.open_shares(taken)
    with session_scope() as s:
        s.execute(update(Chunk).where(Chunk.id == taken[0][0].id).values(token="someone else's"))
    scores = {hash_: PredictedSlice(0, 1.0, 0.7, True, bytes(98)) for share in opened for hash_ in share.pixels}
    shares.record(opened, "openvino-f32", scores, Heartbeat(Chunk, [claim for _, claim in taken]))
    assert (view(job).counts.predicted, view(job).counts.open) == (16, 8)


@pytest.mark.slow
def test_worker_with_a_quick_engine_claims_more_than_one_chunk_at_a_time(
    ann: User,
    submit: Any,
    slices: Entries,
    view: View,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "worker.jobs.predict")
    monkeypatch.setattr(predict, "CLAIM_SECONDS", 1e6)  # however slow this machine is, its engine counts as quick
    submit(ann, slices(1, start=1000))
    job = submit(ann, slices(300))
    for _ in range(2):
        assert ingest.unpack_next("w")
        while predict.predict_next("w"):
            pass
    assert view(job).counts.predicted == 300
    assert max(record.slices for record in caplog.records if record.message == "predicted") > 128


def test_engine_is_kept_by_the_files_of_its_version(champion: ModelVersion, database: Settings) -> None:
    """A database that was restored from a backup may give the same id to another network."""
    assert loaded_engines.load(champion).package.name == "fake"
    other = add_champion(database.home, "other")
    restored = ModelVersion(id=champion.id, name="other", number=1, recipe=other.recipe, files=other.files)
    assert loaded_engines.load(restored).package.name == "other"


def test_both_lanes_are_alive_while_one_fetches_an_engine(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_engines, "kept", OrderedDict())
    alive = [Event(), Event()]

    def hang(version: ModelVersion) -> Path:
        assert all(event.wait(20) for event in alive)
        return versions.package_folder(version)

    monkeypatch.setattr(loaded_engines, "package_folder", hang)
    with ThreadPoolExecutor() as lanes:
        loads = [lanes.submit(loaded_engines.load, champion, event.set) for event in alive]
        assert {load.result().package.name for load in loads} == {"fake"}


def test_another_network_under_the_id_of_a_refused_one_is_not_refused(
    ann: User,
    submit: Any,
    slices: Entries,
    view: View,
    champion: ModelVersion,
    database: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(predict._refused, loaded_engines.files_of(champion), time.monotonic() + 60)
    job = submit(ann, slices(2))
    ingest.unpack_next("w")
    assert not predict.predict_next("w")
    other = add_champion(database.home, "other")
    with session_scope() as s:  # as after a restore
        s.execute(update(ModelVersion).where(ModelVersion.id == champion.id).values(files=other.files))
    assert predict.predict_next("w")
    assert view(job).counts.predicted == 2


def test_cancelled_job_is_listed_once_the_database_is_back(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(5))
    with session_scope() as s:
        jobs.cancel_job(s, job)
    monkeypatch.setattr(recording, "record_read", away(20, recording.record_read))
    assert ingest.unpack_next("w")
    assert (view(job).state, view(job).counts.cancelled) == (JobState.CANCELLED, 5)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_work_is_put_off_if_storage_hangs_for_long(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, end = submit(ann, slices(3)), Event()
    for model, method, act in ((Upload, "sync", ingest.unpack_next), (Chunk, "verified_path", predict.predict_next)):
        with monkeypatch.context() as patch:
            patch.setattr(background, "HEARTBEAT_SECONDS", 0.01)
            patch.setattr(background, "STORAGE_SECONDS", 0.05)
            patch.setattr(Storage, method, lambda *_: end.wait(60))
            assert act("w")
        with read_scope() as s:
            assert s.execute(select(model.state, model.attempts, model.put_offs)).one() == (Work.READY, 0, 1)
        let_time_pass()
        assert act("w")
    end.set()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 3)


@pytest.mark.parametrize("method", ["exists", "stat"])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_upload_is_put_off_if_looking_for_its_file_hangs_for_long(
    method: str, ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, end, answer = submit(ann, slices(3)), Event(), getattr(Path, method)
    with read_scope() as s:
        stored = storage().local_path(s.scalars(select(Upload.sha256)).one())

    def hang(path: Path, *given: Any, **named: Any) -> Any:
        if path == stored:
            assert threading.current_thread() is not threading.main_thread()
            end.wait(60)
        return answer(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(background, "HEARTBEAT_SECONDS", 0.01)
        patch.setattr(background, "STORAGE_SECONDS", 0.05)
        patch.setattr(Path, method, hang)
        assert ingest.unpack_next("w")
    with read_scope() as s:
        assert s.execute(select(Upload.state, Upload.attempts, Upload.put_offs)).one() == (Work.READY, 0, 1)
    let_time_pass()
    assert ingest.unpack_next("w")
    end.set()
    assert view(job).counts.open == 3


HANGING = """
import time
from pathlib import Path
from db.storage import Storage
from worker.jobs import ingest, predict
answer = {of}.{method}
def hang(self, *given, **named):
    if "{of}" == "Storage" or len(self.name) == 64:
        time.sleep(8)
    return answer(self, *given, **named)
{of}.{method} = hang
assert {turn}("w")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("of", "method", "turn", "predicted"),
    [
        ("Storage", "sync", "ingest.unpack_next", 0),
        ("Path", "exists", "ingest.unpack_next", 0),
        ("Storage", "verified_path", "predict.predict_next", 1),
    ],
)
def test_storage_that_hangs_is_waited_for(
    ann: User,
    submit: Any,
    slices: Entries,
    view: View,
    database: Settings,
    of: str,
    method: str,
    turn: str,
    predicted: int,
) -> None:
    job = submit(ann, slices(1))
    if predicted:
        ingest.unpack_next("w")
    short = {"CTBATCH_STALL_SECONDS": "4", "CTBATCH_HEARTBEAT_SECONDS": "0.2"}
    done = run_apart(HANGING.format(of=of, method=method, turn=turn), database, **short)
    assert done.returncode == 0, done.stderr
    assert (view(job).counts.open, view(job).counts.predicted) == (1 - predicted, predicted)
