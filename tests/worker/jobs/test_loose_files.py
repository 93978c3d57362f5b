"""Loose files of one job: many are read in a turn, and each still has its own fate."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import jobs, queue, recording
from db.ledger.job_view import JobView
from db.models import Chunk, Job, JobState, Slice, Upload, User, Work
from db.storage import storage
from tests.builders.files import png
from tests.worker.jobs.test_folders import pages
from tests.worker.jobs.test_main_job import work_until_uploads_fail
from worker import sweep
from worker.imaging.rejections import DecoderUnavailable
from worker.jobs import ingest, loose_files, predict

View = Callable[[Job], JobView]

pytestmark = pytest.mark.usefixtures("champion")


def send(owner: User, count: int, start: int = 0, **contents: bytes) -> Job:
    """Make a job of loose PNG, each of its own pixels, and of further files by name."""
    pictures = {f"{n}.png": png(n) for n in range(start, start + count)} | contents
    files = []
    for name, content in pictures.items():
        with storage().receive() as receiver:
            receiver.write(content)
            received = receiver.publish()
        files.append(jobs.ReceivedFile(name, received.sha256, received.size, "file", 1))
    with session_scope() as s:
        return jobs.create_job(s, owner=owner, files=files)[0]


def work() -> None:
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def uploads(*columns: Any) -> list[Any]:
    """These columns of all uploads, in order."""
    with read_scope() as s:
        query = select(*columns).order_by(Upload.job_id, Upload.position)
        return list(s.scalars(query) if len(columns) == 1 else s.execute(query))


def chunk_sizes() -> list[int]:
    with read_scope() as s:
        return list(s.scalars(select(Chunk.size).order_by(Chunk.id)))


def remove_file(position: int) -> None:
    with read_scope() as s:
        storage().local_path(s.scalars(select(Upload.sha256).where(Upload.position == position)).one()).unlink()


def test_loose_files_of_a_job_are_read_in_one_turn_into_common_chunks(ann: User, view: View) -> None:
    job = send(ann, 40)
    assert ingest.unpack_next("w")
    assert uploads(Upload.state) == [Work.DONE] * 40
    assert chunk_sizes() == [8, 16, 16]
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 40)
    with read_scope() as s:
        rows = s.execute(select(Slice.name, Slice.ordinal, Upload.filename).join(Upload, Upload.id == Slice.upload_id))
        assert sorted(rows) == sorted((f"{n}.png", 0, f"{n}.png") for n in range(40))


def test_loose_files_of_two_jobs_do_not_share_a_turn(ann: User, bob: User) -> None:
    send(ann, 3)
    send(bob, 3, start=10)
    assert ingest.unpack_next("w")
    assert sorted(uploads(Upload.state)) == [Work.DONE] * 3 + [Work.READY] * 3


@pytest.mark.parametrize(("limit", "value"), [("MOST_LOOSE_FILES", 4), ("MOST_LOOSE_BYTES", 4 * len(png(5)))])
def test_turn_of_loose_files_is_limited(limit: str, value: int, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, limit, value)
    send(ann, 9, start=1)
    assert ingest.unpack_next("w")
    assert uploads(Upload.state) == [Work.DONE] * 4 + [Work.READY] * 5
    work()
    assert uploads(Upload.state) == [Work.DONE] * 9


def test_loose_file_of_several_pages_and_damaged_ones_have_their_rows(ann: User, view: View) -> None:
    job = send(ann, 3, **{"empty.png": b"", "pages.tif": pages(50, 3), "text.png": b"a text"})
    assert ingest.unpack_next("w")
    work()
    counts = view(job).counts
    assert (counts.received, counts.predicted, counts.rejected) == (8, 6, 2)


def test_lost_file_does_not_keep_the_files_beside_it(ann: User, view: View) -> None:
    job = send(ann, 12)
    remove_file(5)
    work_until_uploads_fail()
    assert [error for error in uploads(Upload.error) if error] == ["file_missing"]
    assert uploads(Upload.state).count(Work.DONE) == 11
    assert (view(job).state, view(job).counts.predicted) == (JobState.FAILED, 11)


def test_files_of_a_worker_that_died_are_read_one_by_one(ann: User, view: View) -> None:
    job = send(ann, 4)
    with session_scope() as s:
        taken = ingest._claim(s, "died")
    assert taken is not None
    assert len(taken.files) == 4
    with session_scope() as s:
        s.execute(update(Upload).values(lease_until=from_now(-1)))
    sweep.sweep_ledger()
    assert ingest.unpack_next("w")
    assert uploads(Upload.state) == [Work.DONE, *[Work.READY] * 3]
    work()
    assert view(job).counts.predicted == 4


@pytest.mark.parametrize(("put_offs", "done_at_once"), [(1, 3), (3, 1)])
def test_files_are_put_off_if_there_is_no_decoder_and_are_read_one_by_one_if_that_goes_on(
    put_offs: int, done_at_once: int, ann: User, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_owner: int) -> Any:
        raise DecoderUnavailable("no process can be started")

    job = send(ann, 3)
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "decoders", none)
        assert ingest.unpack_next("w")
    columns = Upload.state, Upload.attempts, Upload.put_offs
    assert [tuple(row) for row in uploads(*columns)] == [(Work.READY, 0, 1)] * 3
    assert not ingest.unpack_next("w")
    with session_scope() as s:
        s.execute(update(Upload).values(lease_until=from_now(-1), put_offs=put_offs))
    assert ingest.unpack_next("w")
    assert uploads(Upload.state).count(Work.DONE) == done_at_once
    work()
    assert view(job).counts.predicted == 3


def test_loose_files_give_way_after_their_turn(
    ann: User, bob: User, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "TURN_SECONDS", 0.0)
    many, few = send(ann, 30), send(bob, 2, start=100)
    assert ingest.unpack_next("w")
    assert uploads(Upload.state).count(Work.DONE) == 8
    assert set(uploads(Upload.attempts)) == {0, 1}, "a turn is not an attempt"
    assert ingest.unpack_next("w")
    assert view(few).stages.unpacked == 2
    work()
    assert (view(many).counts.predicted, view(few).counts.predicted) == (30, 2)


def test_cancelled_job_of_loose_files_ends_without_a_worker(ann: User, view: View) -> None:
    job = send(ann, 20)
    with session_scope() as s:
        jobs.cancel_job(s, s.get_one(Job, job.id))
    assert (view(job).state, view(job).counts.cancelled) == (JobState.CANCELLED, 20)
    assert uploads(Upload.state) == [Work.CANCELLED] * 20
    with read_scope() as s:
        assert set(s.scalars(select(Slice.name))) == {f"{n}.png" for n in range(20)}
    assert not ingest.unpack_next("w")
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 20
    work()
    assert (view(job).state, view(job).counts.predicted) == (JobState.FINISHED, 20)


def test_job_that_is_cancelled_within_a_turn_has_every_file_cancelled(
    ann: User, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = send(ann, 30)
    record = recording.record_loose_files
    recorded: list[int] = []

    def cancel_after_the_first(s: Session, files: Any, array_sha256: str | None) -> bool:
        if len(recorded) == 1:
            jobs.cancel_job(s, s.get_one(Job, job.id))
        recorded.append(len(files))
        return record(s, files, array_sha256)

    monkeypatch.setattr(recording, "record_loose_files", cancel_after_the_first)
    assert ingest.unpack_next("w")
    assert recorded == [8, 16, 6]
    assert view(job).state == JobState.CANCELLED
    assert (view(job).counts.received, view(job).counts.cancelled) == (30, 30)


def test_turn_that_lost_a_file_to_another_worker_records_nothing_of_it(
    ann: User, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = send(ann, 6)
    stored = loose_files.store_arrays

    def lose(*given: Any) -> str | None:
        with session_scope() as s:
            s.execute(update(Upload).where(Upload.position == 2).values(token="another's"))
        return stored(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loose_files, "store_arrays", lose)
        assert ingest.unpack_next("w")
    assert view(job).counts.received == 0
    with session_scope() as s:
        s.execute(update(Upload).values(lease_until=from_now(-1)))
    sweep.sweep_ledger()
    work()
    assert (view(job).counts.received, view(job).counts.predicted) == (6, 6)
