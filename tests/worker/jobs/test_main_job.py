"""From an archive to predictions, with the real reader, sandbox, storage and ledger, and the fake engine."""

import io
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select, update

from db import database as base
from db.clock import from_now
from db.database import read_scope, session_scope
from db.datasets import reviews
from db.ledger import job_view, jobs
from db.models import Chunk, Job, JobState, ModelVersion, Outcome, Prediction, Review, Slice, Upload, User, Work
from db.registry import champions, engine_proofs, versions
from db.series import images
from db.settings import Settings
from db.storage import FileDamaged, storage
from db.timing import published
from db.timing.stages import Stage
from tests.builders.versions import add_champion
from worker import reap, sweep
from worker.decoding import npy_bytes
from worker.engines import load, trial
from worker.engines.interface import Scores
from worker.engines.load import EngineAbsent, EngineUnproven
from worker.engines.proof import failed
from worker.imaging.archives import tar
from worker.imaging.archives import zip as zip_module
from worker.imaging.archives.archive import read_entries
from worker.jobs import batches, ingest, loaded_engines, predict

PROJECT = Path(__file__).parents[3]
Entries = Callable[..., dict[str, bytes]]
View = Callable[[Job], job_view.JobView]

pytestmark = pytest.mark.usefixtures("champion")


def work() -> None:
    """Do what the workers do until nothing is left."""
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def retry(job: Job) -> int:
    """Put back what failed in a job, and do it; how much that was."""
    with session_scope() as s:
        count = jobs.retry_job(s, job)
    work()
    return count


def let_time_pass(model: Any) -> None:
    """As if the minute were over for which work was put off."""
    with session_scope() as s:
        s.execute(update(model).where(model.state == Work.READY).values(lease_until=from_now(-1)))


def work_until_uploads_fail() -> None:
    """Do what the workers do until an upload whose file is at fault has had all of its tries."""
    for _ in range(ingest.MAX_ATTEMPTS):
        work()
        let_time_pass(Upload)


def test_every_entry_gets_exactly_one_outcome(ann: User, submit: Any, slices: Entries, view: View) -> None:
    png = next(iter(slices(1).values()))
    odd = {"s/cut.png": png[: len(png) // 2], "s/note.png": b"this is text", "s/empty.png": b""}
    job = submit(ann, slices(40) | odd)
    work()
    done = view(job)
    assert done.state == JobState.FINISHED
    assert done.counts.received == 43
    assert done.counts.predicted == 40
    assert done.counts.rejected == 3
    assert done.rejections == {"empty": 1, "format": 1, "truncated": 1}
    stages = {"total": 43, "total_known": True, "read": 43, "done": 43, "uploads": 1, "unpacked": 1, "dicomdirs": 0}
    assert done.stages.model_dump() == stages
    with read_scope() as s:
        names = s.scalars(select(Slice.name).where(Slice.job_id == job.id).order_by(Slice.id)).all()
    assert names == [*slices(40), *odd]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_row_29_dicomdirs_are_noted_on_the_job_though_they_are_not_slices(
    ann: User, submit: Any, slices: Entries, view: View, kind: str
) -> None:
    job = submit(ann, {"DICOMDIR": b"x"} | slices(3) | {"two/dicomdir": b"x"}, kind)
    work()
    done = view(job)
    assert (done.stages.dicomdirs, done.counts.received, done.counts.predicted) == (2, 3, 3)


def test_dicomdirs_are_counted_once_though_a_turn_is_repeated(
    ann: User, submit: Any, slices: Entries, view: View
) -> None:
    job = submit(ann, {"DICOMDIR": b"x"} | slices(40))
    with session_scope() as s:
        s.execute(update(Upload).values(dicomdirs=1))  # as an earlier turn recorded it
    work()
    assert view(job).stages.dicomdirs == 1


def test_processor_time_of_every_stage_is_published(ann: User, submit: Any, slices: Entries) -> None:
    def seconds() -> dict[Stage, float]:
        with read_scope() as s:
            return {stage: spent.seconds for stage, spent in published.sums(s).items()}

    submit(ann, slices(40))
    work()
    first = seconds()
    submit(ann, slices(40, start=40))
    work()
    grown = {stage for stage, now in seconds().items() if now > first[stage]}
    assert grown == set(Stage) - {Stage.RECEIVE}, "the web receives"


def test_scores_belong_to_their_slices(
    ann: User, champion: ModelVersion, submit: Any, slices: Entries, view: View
) -> None:
    job = submit(ann, slices(50))
    work()
    loaded = loaded_engines.load(champion)
    with read_scope() as s:
        rows = s.execute(select(Slice.id, Prediction.logit).join(Prediction, Prediction.slice_id == Slice.id)).all()
        assert len(rows) == 50
        for slice_id, logit in rows:
            image = images.slice_image(s, job, slice_id)
            assert image is not None
            assert float(loaded.engine.predict(image.pixels[None]).logit[0]) == pytest.approx(logit)
            assert image.cam is not None
            assert image.cam.shape == (7, 7)


def use_engine(version: ModelVersion, engine: Any) -> None:
    """Let this process predict with `engine` from now on."""
    package = loaded_engines.load(version).package
    loaded_engines.kept[loaded_engines.files_of(version)] = loaded_engines.Loaded(package, engine)


class CountingEngine:
    """The fake engine, counting what it is given."""

    batch_size = 8

    def __init__(self, engine: Any) -> None:
        self.name = "openvino-f32"  # because the predictions of `fake` are never copied
        self._engine, self.seen = engine, 0

    def predict(self, slices: np.ndarray[Any, Any]) -> Scores:
        self.seen += len(slices)
        found: Scores = self._engine.predict(slices)
        return found


def test_repeated_picture_is_predicted_once_and_copied(
    ann: User, champion: ModelVersion, submit: Any, slices: Entries, view: View
) -> None:
    loaded = loaded_engines.load(champion)
    engine = CountingEngine(loaded.engine)
    use_engine(champion, engine)
    [one] = slices(1).values()
    job = submit(ann, {f"s/{n}.png": one for n in range(12)} | slices(2, start=50))
    work()
    seen = engine.seen
    again = submit(ann, {f"t/{n}.png": one for n in range(5)})
    work()
    del loaded_engines.kept[loaded_engines.files_of(champion)]
    assert engine.seen == seen, "nothing new was predicted"
    assert (view(job).counts.predicted, view(again).counts.predicted) == (14, 5)
    with read_scope() as s:
        of_picture = select(func.count(Prediction.logit.distinct())).join(Slice, Slice.id == Prediction.slice_id)
        assert s.scalar(of_picture.where(Slice.name.not_like("s/0005%"))) == 1


def test_the_same_pixels_are_predicted_once(
    ann: User, bob: User, champion: ModelVersion, submit: Any, slices: Entries, view: View
) -> None:
    loaded = loaded_engines.load(champion)
    engine = CountingEngine(loaded.engine)
    use_engine(champion, engine)
    first = slices(10)
    twins = {f"again/{n}": data for n, data in enumerate(first.values())}
    one, two = submit(ann, first | twins), submit(bob, slices(12))
    work()
    del loaded_engines.kept[loaded_engines.files_of(champion)]
    assert engine.seen == 12
    assert view(one).counts.predicted == 20
    assert view(two).counts.predicted == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["after-claim-upload", "after-array-before-record", "after-claim-chunk", "mid-predict", "before-record-commit",
     "after-record-commit"],
)  # fmt: skip
def test_a_crash_at_any_point_loses_and_doubles_nothing(
    point: str, ann: User, database: Settings, submit: Any, slices: Entries, view: View
) -> None:
    base.use(database.model_copy(update={"lease_seconds": 0.2, "heartbeat_seconds": 30.0}))
    job = submit(ann, slices(60))
    code = "from worker.jobs import ingest, predict\nwhile ingest.unpack_next('w') or predict.predict_next('w'): pass"
    crashed = run_apart(code, database, CTBATCH_CRASH_AT=point)
    assert crashed.returncode == -9, crashed.stderr
    with session_scope() as s:
        for model in (Upload, Chunk):
            s.execute(update(model).where(model.state == Work.RUNNING).values(lease_until=from_now(-1)))
    sweep.sweep_ledger()
    work()
    done = view(job)
    assert done.state == JobState.FINISHED
    assert (done.counts.received, done.counts.predicted) == (60, 60)
    with read_scope() as s:
        assert s.scalar(select(func.count()).select_from(Prediction)) == 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_cancelled_while_unpacking_every_entry_is_cancelled_and_the_rest_is_not_read(
    kind: str, ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(200), kind=kind)
    recorded = ingest.recording.record_read
    read: list[bytes] = []
    passes: list[Path] = []
    for module in (tar, zip_module):
        monkeypatch.setattr(module, "check_content", lambda data: read.append(data) or data)
    monkeypatch.setattr("worker.decoding.read_entries", lambda *given: passes.append(given[0]) or read_entries(*given))
    taken = 3 * base.current().first_chunk_slices + 4 * ingest._pool()._size  # two chunks, and what is decoded ahead

    def cancel_after_the_first(*arguments: Any, **named: Any) -> bool:
        outcome = recorded(*arguments, **named)
        with_cancel = arguments[0]
        jobs.cancel_job(with_cancel, job)
        return outcome

    monkeypatch.setattr(ingest.recording, "record_read", cancel_after_the_first)
    work()
    done = view(job)
    assert done.state == JobState.CANCELLED
    assert done.counts.received == 200
    assert done.counts.cancelled == 200
    assert len(read) <= taken, "what was decoded ahead, and nothing more"
    assert len(passes) == 1
    monkeypatch.undo()
    assert retry(job) == 200
    assert view(job).counts.predicted == 200


def test_job_that_was_cancelled_before_it_was_unpacked_is_listed_unread(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(20))
    with session_scope() as s:
        jobs.cancel_job(s, job)
    monkeypatch.setattr(zip_module, "_inflated", None)
    work()
    assert (view(job).state, view(job).counts.cancelled) == (JobState.CANCELLED, 20)


def run_apart(code: str, settings: Settings, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in another process on the same database and storage."""
    environment = {
        "CTBATCH_HOME": str(settings.home),
        "CTBATCH_ENGINE": "fake",
        "DATABASE_URL": settings.database_url,
        "CELERY_BROKER_URL": settings.broker_url,
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ | environment | variables, capture_output=True, text=True)


@pytest.mark.slow
def test_second_ingest_process_unpacks_a_small_job_while_a_large_one_is_read(
    ann: User,
    bob: User,
    database: Settings,
    submit: Any,
    slices: Entries,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large, small = submit(ann, slices(60)), submit(bob, slices(3, start=1000))
    unpacked: list[int] = []

    def in_between(arrays: Any) -> memoryview:
        if not unpacked:
            other = run_apart("from worker.jobs import ingest; ingest.unpack_next('other')", database)
            assert other.returncode == 0, other.stderr
            unpacked.extend(view(job).stages.unpacked for job in (large, small))
        return npy_bytes(arrays)

    monkeypatch.setattr(batches, "npy_bytes", in_between)
    ingest.unpack_next("w")
    assert unpacked == [0, 1]
    assert view(large).stages.unpacked == 1


def test_pages_of_one_file_are_slices_of_their_own(ann: User, submit: Any, view: View) -> None:
    pages = [Image.fromarray(np.full((40, 40), level, np.uint8)) for level in (10, 90, 200)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    job = submit(ann, {"scan.tif": buffer.getvalue()})
    work()
    assert view(job).counts.predicted == 3
    with read_scope() as s:
        assert s.scalars(select(Slice.frame).order_by(Slice.id)).all() == [0, 1, 2]


def test_missing_upload_fails_the_job_with_its_reason(ann: User, submit: Any, slices: Entries, view: View) -> None:
    job = submit(ann, slices(3))
    with read_scope() as s:
        sha256 = s.scalars(select(Upload.sha256)).one()
    storage().delete(sha256)
    work_until_uploads_fail()
    assert (view(job).state, view(job).error) == (JobState.FAILED, "file_missing")


def test_upload_whose_file_is_missing_or_damaged_for_a_moment_is_read_later(
    ann: User, submit: Any, slices: Entries, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    job = submit(ann, slices(3))
    with read_scope() as s:
        path = storage().local_path(s.scalars(select(Upload.sha256)).one())
    away = path.rename(path.with_name("away"))
    assert ingest.unpack_next("w")
    path.write_bytes(b"other bytes")
    os.utime(path, (0, 0))
    let_time_pass(Upload)
    assert ingest.unpack_next("w")
    assert [(record.error, record.levelname) for record in caplog.records if record.msg == "work put off"] == [
        ("FileMissing", "ERROR"),
        ("FileDamaged", "ERROR"),
    ]
    away.rename(path)
    let_time_pass(Upload)
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 3)


def test_chunk_with_a_missing_array_is_put_off_and_finally_quarantined(
    ann: User, submit: Any, slices: Entries, view: View
) -> None:
    job = submit(ann, slices(4))
    ingest.unpack_next("w")
    with read_scope() as s:
        array = s.scalars(select(Chunk.array_sha256)).one()
    storage().delete(array)
    assert predict.predict_next("w")
    assert view(job).counts.open == 4  # put off: it may come back
    assert not predict.predict_next("w"), "not before the sweeper asks again"
    for _ in range(predict.MAX_ATTEMPTS):
        let_time_pass(Chunk)
        predict.predict_next("w")
    assert view(job).state == JobState.FINISHED
    assert view(job).rejections == {"file_lost": 4}


def lose_arrays(job: Job) -> None:
    """Remove the prepared arrays of a job, and predict until it gives up."""
    with read_scope() as s:
        arrays = s.scalars(select(Chunk.array_sha256).where(Chunk.job_id == job.id)).all()
    for array in arrays:
        storage().delete(array)
    for _ in range(predict.MAX_ATTEMPTS):
        predict.predict_next("w")
        let_time_pass(Chunk)


def test_retry_prepares_lost_slices_again(ann: User, submit: Any, slices: Entries, view: View) -> None:
    job = submit(ann, slices(4))
    ingest.unpack_next("w")
    lose_arrays(job)
    with session_scope() as s:
        reviewed = s.scalars(select(Slice.id).order_by(Slice.id)).first()
        reviews.set_review(s, reviewed or 0, ann, 1)
    assert retry(job) == 4
    assert (view(job).counts.received, view(job).counts.predicted) == (4, 4)
    with read_scope() as s:
        assert s.scalars(select(Review.slice_id)).all() == [reviewed]
        assert images.slice_image(s, job, reviewed or 0)


def test_retry_keeps_the_frames_that_were_predicted(ann: User, champion: ModelVersion, submit: Any, view: View) -> None:
    use_engine(champion, CountingEngine(loaded_engines.load(champion).engine))
    pages = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (40, 40), dtype=np.uint8)) for n in range(3)]
    names = ["one.tif", "three.tif"]
    files = []
    for count in (1, 3):
        buffer = io.BytesIO()
        pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:count])
        files.append(buffer.getvalue())
    submit(ann, {names[0]: files[0]})
    work()
    job = submit(ann, {names[1]: files[1]})
    ingest.unpack_next("w")
    lose_arrays(job)
    assert view(job).rejections == {"file_lost": 2}
    assert retry(job) == 2
    del loaded_engines.kept[loaded_engines.files_of(champion)]
    assert (view(job).counts.received, view(job).counts.predicted) == (3, 3)


def test_retry_without_the_upload_loses_no_slice(ann: User, submit: Any, slices: Entries, view: View) -> None:
    job = submit(ann, slices(4))
    ingest.unpack_next("w")
    lose_arrays(job)
    with read_scope() as s:
        storage().delete(s.scalars(select(Upload.sha256)).one())
    assert retry(job) == 4
    work_until_uploads_fail()
    assert (view(job).error, view(job).rejections) == ("file_missing", {"file_lost": 4})


def test_originals_are_durable_before_a_row_names_them(
    ann: User, submit: Any, slices: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_at_sync: list[int] = []

    def sync() -> None:
        with read_scope() as s:
            rows_at_sync.append(len(s.scalars(select(Slice.id)).all()))

    monkeypatch.setattr(storage(), "sync", sync)
    submit(ann, slices(40))
    ingest.unpack_next("w")
    assert rows_at_sync == [0, 8, 24]


def test_damaged_upload_fails_the_job(
    ann: User, submit: Any, slices: Entries, view: View, caplog: pytest.LogCaptureFixture
) -> None:
    job = submit(ann, slices(3))
    with read_scope() as s:
        path = storage().local_path(s.scalars(select(Upload.sha256)).one())
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    long_ago = time.time() - 7200
    os.utime(path, (long_ago, long_ago))
    work_until_uploads_fail()
    assert (view(job).state, view(job).error) == (JobState.FAILED, "file_damaged")
    assert "upload failed" in caplog.text


def test_damaged_picture_is_noticed(ann: User, submit: Any, slices: Entries) -> None:
    job = submit(ann, slices(1))
    work()
    with read_scope() as s:
        path = storage().local_path(s.scalars(select(Chunk.array_sha256)).one())
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with read_scope() as s, pytest.raises(FileDamaged):
        images.slice_image(s, job, s.scalars(select(Slice.id)).one())


def test_poisonous_slice_alone_is_quarantined(
    ann: User, champion: ModelVersion, submit: Any, slices: Entries, view: View
) -> None:
    loaded = loaded_engines.load(champion)
    poison: set[bytes] = set()

    class Refusing(CountingEngine):
        def predict(self, slices: np.ndarray[Any, Any]) -> Scores:
            if any(each.tobytes() in poison for each in slices):
                raise RuntimeError("this slice breaks the engine")
            return super().predict(slices)

    job = submit(ann, slices(20))
    ingest.unpack_next("w")
    with read_scope() as s:
        bad = s.scalars(select(Slice.id).where(Slice.name == "s/00013.png")).one()
        image = images.slice_image(s, job, bad)
        assert image is not None
        poison.add(image.pixels.tobytes())
    use_engine(champion, Refusing(loaded.engine))
    work()
    del loaded_engines.kept[loaded_engines.files_of(champion)]
    done = view(job)
    assert done.state == JobState.FINISHED
    assert (done.counts.predicted, done.counts.quarantined) == (19, 1)
    with read_scope() as s:
        assert s.scalars(select(Slice.name).where(Slice.state == Outcome.QUARANTINED)).all() == ["s/00013.png"]


class BrokenEngine(CountingEngine):
    """Fails on anything, as after a fault of the GPU."""

    def predict(self, slices: np.ndarray[Any, Any]) -> Scores:
        raise RuntimeError("an illegal memory access was encountered")


class SenselessEngine(CountingEngine):
    """Gives no number for anything."""

    def predict(self, slices: np.ndarray[Any, Any]) -> Scores:
        found = super().predict(slices)
        return Scores(found.logit * np.nan, found.cam)


@pytest.mark.parametrize("broken", [BrokenEngine, SenselessEngine])
def test_a_process_whose_engine_broke_ends_and_no_slice_is_blamed(
    broken: type[CountingEngine],
    ann: User,
    champion: ModelVersion,
    submit: Any,
    slices: Entries,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(predict, "rest_and_end", lambda: ended.append(1))
    job = submit(ann, slices(20))
    ingest.unpack_next("w")
    loaded = loaded_engines.load(champion)
    use_engine(champion, broken(loaded.engine))
    assert predict.predict_next("w")
    assert (view(job).counts.open, len(ended)) == (20, 1)
    loaded_engines.kept.clear()  # as in the process that comes next
    let_time_pass(Chunk)
    work()
    assert view(job).counts.predicted == 20


def test_model_that_cannot_be_loaded_quarantines_slices_after_all_attempts(
    ann: User, champion: ModelVersion, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(predict, "rest_and_end", lambda: None)
    monkeypatch.setattr(load, "load_engine", fails)
    loaded_engines.kept.clear()
    job = submit(ann, slices(4))
    ingest.unpack_next("w")
    for _ in range(predict.MAX_ATTEMPTS - 1):
        assert predict.predict_next("w")
        let_time_pass(Chunk)
    assert view(job).counts.open == 4
    predict.predict_next("w")
    assert view(job).rejections == {"engine_error": 4}
    monkeypatch.undo()
    assert retry(job) == 4
    assert view(job).counts.predicted == 4


@pytest.mark.parametrize("error", [EngineUnproven([failed("openvino-int8", "it differs")]), EngineAbsent("no Keras")])
def test_slices_wait_where_no_engine_proves_itself(
    error: Exception,
    ann: User,
    champion: ModelVersion,
    submit: Any,
    slices: Entries,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(predict, "REFUSED_SECONDS", 0.0)
    monkeypatch.setattr(load, "load_engine", refuses)
    loaded_engines.kept.clear()
    job = submit(ann, slices(4))
    ingest.unpack_next("w")
    for _ in range(predict.MAX_ATTEMPTS + 3):
        assert predict.predict_next("w")
        let_time_pass(Chunk)
    found = view(job)
    assert found.counts.open == 4, "however often it was tried, no slice is given up"
    assert champion.label in (found.warning or "")
    with session_scope() as s:
        assert s.query(Chunk).one().attempts == 0, "a refusal is not an attempt"
    monkeypatch.undo()
    predict._refused.clear()
    work()
    assert view(job).counts.predicted == 4
    assert view(job).warning is None


def test_worker_leaves_a_refused_version_to_others_and_predicts_the_rest(
    ann: User, champion: ModelVersion, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(predict._refused, loaded_engines.files_of(champion), time.monotonic() + 60)
    refused = submit(ann, slices(2))
    newer = add_champion(base.current().home, "newer")
    other = submit(ann, slices(2, start=10))
    work()
    assert newer.id != champion.id
    assert (view(refused).counts.open, view(other).counts.predicted) == (2, 2)


def test_damaged_model_copy_is_replaced_and_a_failed_copy_is_removed(
    ann: User, champion: ModelVersion, submit: Any, slices: Entries, view: View
) -> None:
    loaded_engines.kept.clear()
    models = base.current().home / "models"
    shutil.rmtree(models, ignore_errors=True)
    manifest = champion.files["package.json"]
    data = storage().read(manifest)
    storage().delete(manifest)
    job = submit(ann, slices(4))
    ingest.unpack_next("w")
    assert predict.predict_next("w")
    assert list(models.iterdir()) == []
    storage().put(data)
    copy = versions.package_folder(champion)
    (copy / "package.json").write_text("damaged")
    let_time_pass(Chunk)
    assert predict.predict_next("w")
    assert view(job).counts.open == 4
    let_time_pass(Chunk)
    work()
    assert view(job).counts.predicted == 4


def test_reaper_leaves_all_files_of_a_job(ann: User, submit: Any, slices: Entries) -> None:
    submit(ann, slices(5))
    work()
    stored = list(storage().names(0, float("inf")))
    assert len(stored) > 5
    assert reap.unnamed(stored) == []


def test_idle_worker_loads_the_champion(champion: ModelVersion, caplog: pytest.LogCaptureFixture) -> None:
    loaded_engines.kept.clear()
    with caplog.at_level(logging.INFO):
        assert not predict.predict_next("w")
    assert [record.model_version for record in caplog.records if record.message == "engine loaded"] == [champion.label]


@pytest.fixture
def imported(new_champion: Callable[[str], ModelVersion]) -> ModelVersion:
    """An imported version that no machine has tried. The version 1 is the champion."""
    with session_scope() as s:
        version = s.get_one(ModelVersion, new_champion("far").id)
        version.facts = {"imported": {}}
        champions.record_promotion(s, s.get_one(ModelVersion, 1), None, "for the test")
    return version


def engines_tried(version: ModelVersion) -> list[bool]:
    """Whether each engine that was tried with a version has passed."""
    with read_scope() as s:
        return [proof.passed for one in engine_proofs.list_servings(s, version_id=version.id) for proof in one.proofs]


def test_idle_worker_tries_an_imported_version(imported: ModelVersion) -> None:
    predict.predict_next("w")
    with read_scope() as s:
        assert engine_proofs.why_not_proven(s, imported) is None
        assert engine_proofs.next_untried(s, "another host") is None


def test_trial_gives_way_to_a_chunk_and_is_made_again_later(
    imported: ModelVersion, ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(2))
    ingest.unpack_next("w")
    with monkeypatch.context() as patch:
        patch.setattr(trial, "SECONDS", 20.0)
        patch.setattr(trial, "_LAUNCH", "import time; time.sleep(600)")
        predict._try_imported()
    assert engines_tried(imported) == []
    work()
    assert view(job).counts.predicted == 2
    assert engines_tried(imported) == [True]


def test_trial_does_not_give_way_to_a_chunk_that_this_worker_refuses(
    imported: ModelVersion, champion: ModelVersion, ann: User, submit: Any, slices: Entries, monkeypatch: Any
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 1.5)
    monkeypatch.setattr(trial, "_LAUNCH", "import time; time.sleep(600)")
    monkeypatch.setitem(predict._refused, loaded_engines.files_of(champion), time.monotonic() + 60)
    submit(ann, slices(2))
    ingest.unpack_next("w")
    predict._try_imported()
    assert engines_tried(imported) == [False]


def test_idle_worker_goes_on_without_an_engine(champion: ModelVersion, ann: User, submit: Any, slices: Entries) -> None:
    loaded_engines.kept.clear()
    storage().delete(champion.files["package.json"])
    assert not predict.predict_next("w")
