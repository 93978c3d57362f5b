"""Uploads whose reading is broken off, put off or cancelled, and what the next reading does again."""

import errno
import gzip
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db import database as base
from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import job_view, jobs
from db.ledger.leases import StaleClaim, count_put_offs
from db.models import Chunk, Job, JobState, Upload, User, Work
from db.settings import MIB
from db.storage import Storage, storage
from tests.builders.files import png, zip_of
from tests.builders.leases import let_leases_end
from worker.heartbeat import Heartbeat
from worker.imaging.archives import archive, tar
from worker.imaging.archives.compressed import PackedSource
from worker.imaging.archives.entries import Allowance, NoRoom
from worker.imaging.rejections import DecoderUnavailable
from worker.jobs import ingest, predict
from worker.jobs.batches import Batch, batches
from worker.jobs.budget import FAILURES
from worker.received_files import inspect_received

Entries = Callable[..., dict[str, bytes]]
View = Callable[[Job], job_view.JobView]

pytestmark = pytest.mark.usefixtures("champion")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kind of each packed TAR that is unpacked from here on."""
    kinds: list[str] = []
    real = archive.TarReader

    def reader(source: Any, *rest: Any) -> Any:
        kinds.append("gz" if isinstance(source, PackedSource) else "tar")
        return real(source, *rest)

    monkeypatch.setattr(archive, "TarReader", reader)
    return kinds


def break_off(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Read on, and lose the lease once so many batches more are recorded."""
    recorded = ingest.recording.record_read
    batches = iter(range(after))

    def record(*arguments: Any, **named: Any) -> bool:
        if next(batches, None) is None:
            raise StaleClaim("the worker was too slow")
        return recorded(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(ingest.recording, "record_read", record)
        assert ingest.unpack_next("w")
    let_leases_end(Upload)


def work() -> None:
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def let_time_pass() -> None:
    """As if the minute were over for which work was put off."""
    with session_scope() as s:
        s.execute(update(Upload).where(Upload.state == Work.READY).values(lease_until=from_now(-1)))


@pytest.mark.slow
def test_packed_tar_is_unpacked_from_its_front_however_often_it_is_broken_off(
    ann: User, submit: Any, slices: Entries, view: View, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(150), kind="tar.gz")
    opened.clear()
    for _ in range(3):
        break_off(monkeypatch, after=1)
        assert list(storage().incoming.folder.iterdir()) == [], "nothing is stored twice"
    work()
    assert opened == ["gz"] * 4, "once a reading"
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 150)


def test_file_that_is_passed_over_in_a_packed_tar_counts_as_progress(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.use(base.current().model_copy(update={"max_entry_bytes": MIB}))
    job = submit(ann, {"large.png": os.urandom(4 * MIB), **slices(1)}, kind="tar.gz")
    beats, progress = [], Heartbeat.progress

    def beat(heartbeat: Heartbeat) -> None:
        beats.append(heartbeat)
        progress(heartbeat)

    monkeypatch.setattr(Heartbeat, "progress", beat)
    assert ingest.unpack_next("w")
    assert len(beats) >= 16, "one for every quarter of a megabyte"
    assert view(job).rejections == {"too_large_unpacked": 1}


def test_damaged_packed_tar_is_unpacked_once_a_turn(
    ann: User, submit: Any, slices: Entries, view: View, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(60), kind="tar.gz")
    break_off(monkeypatch, after=1)
    with read_scope() as s:
        stored = storage().local_path(s.scalars(select(Upload.sha256)).one())
    stored.write_bytes(stored.read_bytes()[:-5000])
    opened.clear()
    work()
    assert opened == ["gz"]
    assert view(job).state == JobState.FAILED


def test_slices_read_before_the_damage_of_a_packed_tar_keep_their_outcomes(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real = ingest.read_decoded

    def read(*given: Any) -> Iterator[Any]:
        for entry, *rest in real(*given):
            decoded.append(entry.name)
            yield entry, *rest

    job = submit(ann, slices(30), kind="tar.gz")
    with read_scope() as s:
        stored = storage().local_path(s.scalars(select(Upload.sha256)).one())
    stored.write_bytes(gzip.compress(gzip.decompress(stored.read_bytes())[:40_000]))
    monkeypatch.setattr(ingest, "read_decoded", read)
    work()
    assert view(job).state == JobState.FAILED
    assert 8 < view(job).counts.predicted == len(decoded) < 30


@pytest.mark.parametrize("kind", ["zip", pytest.param("tar.gz", marks=pytest.mark.slow)])
def test_zip_a_patient_goes_on_where_it_was_broken_off_and_can_be_cancelled(
    kind: str, ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"p{n}.zip": zip_of(slices(40, start=100 * n)) for n in range(3)}
    job = submit(ann, files, kind=kind)
    for _ in range(2):
        break_off(monkeypatch, after=1)
    work()
    assert (view(job).state, view(job).counts.received, view(job).counts.predicted) == (JobState.FINISHED, 120, 120)
    others = {f"p{n}.zip": zip_of(slices(40, start=100 * n)) for n in range(5, 8)}
    cancelled = submit(ann, others, kind=kind)
    break_off(monkeypatch, after=1)
    with session_scope() as s:
        jobs.cancel_job(s, cancelled)
    work()
    counts = view(cancelled).counts
    assert (view(cancelled).state, counts.received, counts.cancelled) == (JobState.CANCELLED, 120, 120)
    assert list(storage().incoming.folder.iterdir()) == []


def lose() -> None:
    raise StaleClaim("the worker was too slow")


def test_job_cancelled_after_it_was_broken_off_lists_each_entry_in_one_pass(
    ann: User, submit: Any, slices: Entries, view: View, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(60), kind="tar.gz")
    break_off(monkeypatch, after=2)
    with session_scope() as s:
        jobs.cancel_job(s, job)
    opened.clear()
    monkeypatch.setattr(tar, "check_content", None)  # nothing is read
    work()
    assert (view(job).state, view(job).counts.received, view(job).counts.cancelled) == (JobState.CANCELLED, 60, 60)
    assert opened == ["gz"]


def test_upload_that_is_recorded_whole_is_not_opened_again(
    ann: User, submit: Any, slices: Entries, view: View, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_to_the_end(read: Any) -> Iterator[Batch]:
        for batch in batches(read):
            batch.is_last = False  # as if it were full: whether an entry follows is not known then
            yield batch

    job = submit(ann, slices(20), kind="tar.gz")
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "batches", full_to_the_end)
        patch.setattr(ingest.recording, "close_upload", lambda *_: lose())
        assert ingest.unpack_next("w")
    let_leases_end(Upload)
    opened.clear()
    work()
    assert view(job).counts.predicted == 20
    assert opened == []


def large_inside(stated: int) -> bytes:
    """A packed TAR of a slice, much filler, and an archive whose header states so many bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in {"s/1.png": png(1), "filler.bin": os.urandom(17 * MIB)}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        inner = tarfile.TarInfo("s/inner.zip")
        inner.size = stated
        archive.addfile(inner)
        packed.write(zip_of({"2.png": png(2)}))
    return gzip.compress(packed.getvalue(), 1)


def submit_bytes(owner: User, data: bytes) -> Job:
    with storage().receive() as receiver:
        receiver.write(data)
        received = inspect_received(receiver.path, "a.tar.gz", receiver.finish(), whole=False)
        receiver.publish()
    with session_scope() as s:
        return jobs.create_job(s, owner=owner, files=[received])[0]


def test_archive_inside_that_states_more_than_is_accepted_fails_at_once(ann: User, view: View) -> None:
    job = submit_bytes(ann, large_inside(1 << 50))
    work()
    assert view(job).state == JobState.FAILED
    assert (view(job).error or "").startswith("too_large_unpacked")
    assert view(job).counts.predicted == 1


def no_room(*_: Any) -> None:
    raise NoRoom(errno.ENOSPC, "No space left on device")


def unreadable(*_: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


def lack_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Allowance, "scratch", no_room)


def break_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no block of an upload be read once an archive inside it is unpacked."""
    real = Allowance.scratch

    def scratch(allowance: Allowance, size: int) -> Any:
        monkeypatch.setattr(os, "pread", unreadable)
        return real(allowance, size)

    monkeypatch.setattr(Allowance, "scratch", scratch)


@pytest.mark.parametrize(("failures", "predicted"), [(0, 3), (FAILURES, 0)], ids=["decoded", "over budget"])
@pytest.mark.parametrize(("fault", "reason"), [(lack_room, "no_room"), (break_disk, "file_damaged")])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_upload_whose_own_file_is_at_fault_fails_after_some_tries(
    fault: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    failures: int,
    predicted: int,
    ann: User,
    submit: Any,
    slices: Entries,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = submit(ann, {**slices(3), "s/x.zip": zip_of(slices(2, start=10))})
    with session_scope() as s:
        s.execute(update(Upload).values(decode_failures=failures))
    fault(monkeypatch)
    for _ in range(ingest.MAX_ATTEMPTS):
        assert view(job).is_open
        ingest.unpack_next("w")
        predict.predict_next("w")
        let_time_pass()
    assert (view(job).state, view(job).error, view(job).counts.predicted) == (JobState.FAILED, reason, predicted)


def test_upload_waits_while_the_whole_disk_cannot_be_read(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, {"s/x.zip": zip_of(slices(2))})
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", unreadable)
        patch.setattr(storage(), "owner", unreadable)
        for _ in range(ingest.MAX_ATTEMPTS + 1):
            assert ingest.unpack_next("w")
            let_time_pass()
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 2)


@pytest.mark.parametrize("place", [(Storage, "put"), (Storage, "sync"), (Allowance, "scratch")], ids=lambda p: p[1])
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_upload_waits_while_nothing_can_be_written(
    place: tuple[type, str], ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, {"s/x.zip": zip_of(slices(2))})
    with monkeypatch.context() as patch:
        patch.setattr(*place, lambda *_, **__: unreadable())
        for _ in range(ingest.MAX_ATTEMPTS + 1):
            assert ingest.unpack_next("w")
            let_time_pass()
    with read_scope() as s:
        assert s.execute(select(Upload.state, Upload.attempts)).one() == (Work.READY, 0)
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 2)


def test_block_that_cannot_be_read_once_costs_an_attempt_when_the_upload_is_hashed(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(3))
    with read_scope() as s:
        stored = storage().local_path(s.scalars(select(Upload.sha256)).one())
    os.utime(stored, (0, 0))  # an old file is hashed before it is read
    opened, errors = Path.open, [OSError(errno.EIO, "Input/output error")]

    def open_(path: Path, *given: Any, **named: Any) -> Any:
        if path == stored and errors:
            raise errors.pop()
        return opened(path, *given, **named)

    monkeypatch.setattr(Path, "open", open_)
    assert ingest.unpack_next("w")
    with read_scope() as s:
        assert s.execute(select(Upload.state, Upload.attempts)).one() == (Work.READY, 1)
    let_time_pass()
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 3)


def test_cancelled_job_ends_though_its_files_cannot_be_listed(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, {**slices(3), "s/x.zip": zip_of(slices(2, start=10))})
    with session_scope() as s:
        jobs.cancel_job(s, job)
    with monkeypatch.context() as patch:
        patch.setattr(Allowance, "scratch", no_room)
        work()
    assert (view(job).state, view(job).error, view(job).counts.cancelled) == (JobState.CANCELLED, "not_listed", 3)
    with session_scope() as s:
        assert jobs.retry_job(s, job)
    work()
    assert (view(job).state, view(job).counts.predicted, view(job).counts.received) == (JobState.FINISHED, 5, 5)


AWAY = [
    OSError(28, "No space left on device"),
    OperationalError("SELECT", {}, Exception("database or disk is full")),
    DecoderUnavailable("no decoder could be started"),
    MemoryError(),
]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_cancelled_job_lists_its_files_though_they_could_not_be_decoded(
    error: Exception, ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(12))
    real = ingest.read_decoded

    def cancel_and_fail(*given: Any) -> Iterator[Any]:
        for number, read in enumerate(real(*given)):
            yield read
            if number == 9:
                with session_scope() as s:
                    jobs.cancel_job(s, job)
                raise error

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "read_decoded", cancel_and_fail)
        work()
    let_time_pass()
    work()
    assert (view(job).state, view(job).error) == (JobState.CANCELLED, None)
    assert (view(job).counts.received, view(job).counts.cancelled) == (12, 12)


@pytest.mark.slow
@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_upload_waits_for_what_is_away_however_long(
    error: Exception,
    ann: User,
    submit: Any,
    slices: Entries,
    view: View,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away(*_: Any) -> None:
        raise error

    job = submit(ann, slices(3))
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "read_decoded", away)
        for _ in range(ingest.MAX_ATTEMPTS + 2):
            assert ingest.unpack_next("w")
            assert not ingest.unpack_next("w"), "not before a minute is over"
            let_time_pass()
    with read_scope() as s:
        upload = s.scalars(select(Upload)).one()
        assert (upload.state, upload.attempts, upload.put_offs) == (Work.READY, 0, ingest.MAX_ATTEMPTS + 2)
        assert count_put_offs(s)["upload"] == upload.put_offs
    logged = [record for record in caplog.records if record.levelname == "ERROR"]
    assert {record.error for record in logged} == {type(getattr(error, "orig", error)).__name__}
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 3)
    with read_scope() as s:
        assert count_put_offs(s)["upload"] == 0


@pytest.mark.slow
def test_upload_that_makes_progress_is_claimed_however_often_it_is_broken_off(
    ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(ann, slices(70))
    for _ in range(ingest.MAX_ATTEMPTS + 1):
        break_off(monkeypatch, after=1)
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 70)


def test_upload_that_kills_its_workers_fails(ann: User, submit: Any, slices: Entries, view: View) -> None:
    job = submit(ann, slices(3))
    with session_scope() as s:
        s.execute(update(Upload).values(attempts=ingest.MAX_ATTEMPTS))
    work()
    assert view(job).state == JobState.FAILED


def test_nothing_is_claimed_while_the_disk_is_at_its_reserve(
    ann: User, submit: Any, slices: Entries, view: View
) -> None:
    settings = base.current()
    first, second = submit(ann, slices(3)), submit(ann, slices(3, start=10))
    assert ingest.unpack_next("w")
    base.use(settings.model_copy(update={"reserve_bytes": 1 << 60}))
    assert not ingest.unpack_next("w")
    assert not predict.predict_next("w")
    with read_scope() as s:
        assert set(s.scalars(select(Upload.state))) == {Work.DONE, Work.READY}
        assert set(s.scalars(select(Chunk.attempts))) == {0}
    base.use(settings)
    work()
    assert (view(first).counts.predicted, view(second).counts.predicted) == (3, 3)
