"""The ledger's promises, on both databases: claims are exclusive, stale ones record nothing, every slice ends once."""

import sqlite3
import threading
from collections.abc import Callable
from typing import get_args

import pytest
from sqlalchemy import select, update

from db import MADE_UP, broker, paging
from db.access.request_keys import IdempotencyConflict
from db.bulk import insert_rows
from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import chunks, completion, job_view, jobs, leases, queue, recording, results
from db.ledger.leases import Claim, StaleClaim
from db.ledger.predictions import PredictedSlice
from db.ledger.recording import ReadSlice
from db.ledger.results import ResultsQuery
from db.ledger.series import SeriesQuery, series_page
from db.ledger.tally import count_tallies
from db.models import Chunk, Job, JobState, ModelVersion, Outcome, Prediction, Slice, Upload, User, Work
from tests.builders.leases import let_leases_end
from tests.builders.statements import recorded_statements
from tests.web.actors import load_engines
from worker import sweep

pytestmark = pytest.mark.usefixtures("champion")
CAM = bytes(98)
NewChampion = Callable[[str], ModelVersion]


def submit(owner: User, entries: int = 4, **values: object) -> Job:
    file = jobs.ReceivedFile("a.zip", "0" * 64, 10, "zip", entries)
    with session_scope() as s:
        return jobs.create_job(s, owner=owner, files=[file], **values)[0]  # type: ignore[arg-type]


def claim_upload() -> tuple[Upload, Claim]:
    with session_scope() as s:
        claim = queue.claim_upload(s, "w")
        assert claim is not None
        return s.get_one(Upload, claim.id, populate_existing=True), claim


def rows(count: int, start: int = 0, pixels: str = "p") -> list[ReadSlice]:
    return [
        ReadSlice(
            i,
            0,
            f"s/{i}.png",
            Outcome.OPEN,
            sha256=f"o{i}",
            pixels_sha256=f"{pixels}{i}",
            array_row=i - start,
            series_uid="folder:s",
            series_label="s",
        )
        for i in range(start, start + count)
    ]


def unpack(count: int = 4, pixels: str = "p") -> None:
    upload, claim = claim_upload()
    with session_scope() as s:
        recording.record_read(s, claim, upload, rows(count, pixels=pixels), "a" * 64)
    with session_scope() as s:
        recording.close_upload(s, claim, upload)


def claim(slices: int = 4) -> tuple[Chunk, Claim]:
    with session_scope() as s:
        return queue.claim_chunks(s, "w", slices)[0]


def scores(chunk: Chunk) -> list[PredictedSlice]:
    with read_scope() as s:
        ids = s.scalars(select(Slice.id).where(Slice.chunk_id == chunk.id)).all()
    return [PredictedSlice(i, 1.0, 0.7, True, CAM) for i in ids]


def predict(slices: int = 4, engine: str = "openvino-f32") -> None:
    chunk, own = claim(slices)
    with session_scope() as s:
        recording.record_predictions(s, own, chunk, engine, scores(chunk))


def view(job: Job) -> job_view.JobView:
    with read_scope() as s:
        return job_view.job_view(s, s.get_one(Job, job.id))


def expire(model: type[Chunk] | type[Upload]) -> None:
    with session_scope() as s:
        s.execute(update(model).where(model.state == Work.RUNNING).values(lease_until=from_now(-1)))
    if model is Upload:
        let_leases_end(Upload)


def test_job_is_predicted_and_finishes(ann: User) -> None:
    job = submit(ann)
    assert view(job).state == JobState.QUEUED
    unpack()
    assert view(job).counts.open == 4
    predict()
    done = view(job)
    assert done.state == JobState.FINISHED
    assert done.counts.model_dump() == {
        "received": 4,
        "predicted": 4,
        "positive": 4,
        "rejected": 0,
        "quarantined": 0,
        "cancelled": 0,
        "open": 0,
    }
    assert done.finished_at is not None
    assert done.eta_seconds is None


@pytest.mark.parametrize(("answers", "tried"), [(True, 3), (False, 1)])
def test_sending_stops_at_the_first_message_that_fails(
    ann: User, answers: bool, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[broker.Queue] = []
    monkeypatch.setattr(broker, "wake", lambda queue: woken.append(queue) or answers)
    with session_scope() as s:
        files = [jobs.ReceivedFile(f"{n}.png", str(n) * 64, 1, "loose", 1) for n in range(3)]
        jobs.create_job(s, owner=ann, files=files)
    assert len(woken) == tried


def test_same_key_gives_the_same_job_and_another_body_is_refused(ann: User, bob: User) -> None:
    first = submit(ann, idempotency_key="k")
    assert submit(ann, idempotency_key="k").id == first.id
    assert submit(bob, idempotency_key="k").id != first.id
    with pytest.raises(IdempotencyConflict):
        submit(ann, idempotency_key="k", name="other")


def test_two_submissions_of_one_key_at_once_make_one_job(ann: User) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(submit(ann, idempotency_key="k").id)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == 1


def test_a_chunk_is_claimed_once(ann: User) -> None:
    submit(ann)
    unpack()
    taken: list[int] = []

    def take() -> None:
        with session_scope() as s:
            taken.extend(chunk.id for chunk, _ in queue.claim_chunks(s, "w", 100))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_a_stale_claim_records_nothing(ann: User) -> None:
    job = submit(ann)
    unpack(1)
    chunk, own = claim()
    expire(Chunk)
    sweep.sweep_ledger()
    with pytest.raises(StaleClaim), session_scope() as s:
        recording.record_predictions(s, own, chunk, "openvino-f32", scores(chunk))
    assert view(job).counts.predicted == 0
    with session_scope() as s:
        assert not leases.keep(s, Chunk, own)
    predict()
    with read_scope() as s:
        assert s.scalars(select(Prediction.fence)).all() == [3]  # claimed, lost, claimed again


def test_claim_from_before_a_restore_of_the_database_is_stale(ann: User) -> None:
    job = submit(ann)
    unpack(1)
    chunk, before = claim()
    with session_scope() as s:  # as in a backup from before the claim
        s.execute(update(Chunk).values(state=Work.READY, fence=0, lease_until=None))
    _, after = claim()
    assert (before.id, before.fence) == (after.id, after.fence)
    with session_scope() as s:
        assert not leases.keep(s, Chunk, before)
        chunks.fail_chunk(s, before, "engine_error")
    with pytest.raises(StaleClaim), session_scope() as s:
        recording.record_predictions(s, before, chunk, "openvino-f32", scores(chunk))
    with session_scope() as s:
        recording.record_predictions(s, after, chunk, "openvino-f32", scores(chunk))
    assert view(job).counts.predicted == 1


def test_a_lost_chunk_is_halved_until_only_the_bad_slice_is_quarantined(ann: User) -> None:
    job = submit(ann)
    unpack(8)
    for _ in range(40):
        with session_scope() as s:
            claimed = queue.claim_chunks(s, "w", 8)
        if not claimed:
            break
        for chunk, own in claimed:
            with read_scope() as s:
                poisonous = s.scalar(select(Slice.id).where(Slice.chunk_id == chunk.id, Slice.name == "s/5.png"))
            with session_scope() as s:
                if poisonous:
                    chunks.fail_chunk(s, own, "worker_lost")
                else:
                    recording.record_predictions(s, own, chunk, "openvino-f32", scores(chunk))
    sweep.sweep_ledger()
    done = view(job)
    assert done.state == JobState.FINISHED
    assert (done.counts.predicted, done.counts.quarantined) == (7, 1)
    assert done.rejections == {"worker_lost": 1}
    with read_scope() as s:
        assert s.scalars(select(Slice.name).where(Slice.state == Outcome.QUARANTINED)).all() == ["s/5.png"]


def test_cancel_ends_waiting_chunks_now_and_running_ones_when_they_report(ann: User) -> None:
    job = submit(ann, entries=6)
    upload, own_upload = claim_upload()
    with session_scope() as s:
        recording.record_read(s, own_upload, upload, rows(2), "a" * 64)
    chunk, own = claim()
    with session_scope() as s:
        assert jobs.cancel_job(s, job)
    assert view(job).cancelling
    with session_scope() as s:
        assert recording.record_read(s, own_upload, upload, rows(2, start=2), "b" * 64)  # says: cancelled
    with session_scope() as s:
        recording.record_predictions(s, own, chunk, "openvino-f32", scores(chunk))
    with session_scope() as s:
        recording.close_upload(s, own_upload, upload)
    done = view(job)
    assert done.state == JobState.CANCELLED
    assert (done.counts.cancelled, done.counts.predicted, done.counts.open) == (4, 0, 0)
    with session_scope() as s:
        assert not jobs.cancel_job(s, job)


@pytest.mark.slow
def test_very_many_chunks_are_cancelled_sent_and_freed(ann: User) -> None:
    job = submit(ann)
    with session_scope() as s:
        is_sqlite = s.get_bind().dialect.name == "sqlite"
        count = 2_000 if is_sqlite else 70_000
        insert_rows(s, Chunk, [{"array_sha256": "a" * 64} for _ in range(count)], job_id=job.id, size=1)
    with session_scope() as s:
        if is_sqlite:  # many builds of SQLite accept more parameters than its default
            s.connection().connection.driver_connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1_000)
        s.execute(update(Chunk).values(state=Work.RUNNING, lease_until=from_now(-1)))
        assert len(leases.free_expired(s, Chunk)) == count
        ids = leases.unsent(s, Chunk)
        assert len(ids) == count
        leases.mark_sent(s, Chunk, ids)
        assert leases.unsent(s, Chunk) == []
        assert jobs.cancel_job(s, job)
        assert s.scalars(select(Chunk.state).distinct()).all() == [Work.CANCELLED]


def test_retry_takes_only_what_failed(ann: User) -> None:
    job = submit(ann)
    unpack(2)
    chunk, own = claim()
    good, bad = scores(chunk)
    with session_scope() as s:
        recording.record_predictions(s, own, chunk, "openvino-f32", [good])
        s.execute(update(Slice).where(Slice.id == bad.slice_id).values(state=Outcome.QUARANTINED, reason="worker_lost"))
    with session_scope() as s:
        completion.finish_if_done(s, completion.lock_job(s, job.id))
    with session_scope() as s:
        assert jobs.retry_job(s, job) == 1
    assert view(job).counts.open == 1
    predict()
    assert view(job).counts.predicted == 2
    with session_scope() as s:
        assert jobs.retry_job(s, job) == 0


def test_known_pixels_are_not_predicted_again(ann: User, bob: User) -> None:
    submit(ann)
    unpack()
    predict()
    again = submit(bob)
    unpack()
    assert view(again).state == JobState.FINISHED
    assert view(again).counts.predicted == 4
    with session_scope() as s:
        assert queue.claim_chunks(s, "w", 4) == []


def test_made_up_predictions_are_never_copied(ann: User, bob: User) -> None:
    first = submit(ann)
    unpack(4, pixels="shared")
    predict(engine="fake")
    assert view(first).notice.startswith(MADE_UP)
    second = submit(bob)
    unpack(4, pixels="shared")
    assert view(second).counts.predicted == 0
    predict()
    assert (view(second).counts.predicted, list(view(second).thresholds)) == (4, ["openvino-f32"])
    assert MADE_UP not in view(second).notice


def test_owners_take_turns_and_priority_goes_first(ann: User, bob: User) -> None:
    for number in range(3):
        submit(ann, name=f"a{number}")
    submit(bob, name="b")
    submit(bob, name="urgent", priority=5)
    order = []
    for _ in range(5):
        upload, _ = claim_upload()
        with read_scope() as s:
            order.append(s.get_one(Job, upload.job_id).name)
    assert order == ["urgent", "a0", "b", "a1", "a2"]


def test_small_chunks_of_several_jobs_fill_one_batch(ann: User, bob: User) -> None:
    for number, owner in enumerate((ann, bob, ann)):
        submit(owner)
        unpack(2, pixels=f"job{number}-")
    with session_scope() as s:
        claimed = queue.claim_chunks(s, "w", 5)
    assert [chunk.size for chunk, _ in claimed] == [2, 2]


def test_a_job_keeps_the_model_version_it_was_created_with(ann: User, new_champion: NewChampion) -> None:
    old = submit(ann)
    newer = new_champion("newer")
    new = submit(ann)
    unpack()
    unpack()
    predict()
    predict()
    assert (view(old).model_version, view(new).model_version) == ("fake/1", newer.label)
    with read_scope() as s:
        pairs = {tuple(row) for row in s.execute(select(Prediction.job_id, Prediction.model_version_id))}
    assert pairs == {(old.id, old.model_version_id), (new.id, newer.id)}


def test_a_lost_upload_is_claimed_again_and_resumes(ann: User) -> None:
    submit(ann)
    upload, stale = claim_upload()
    with session_scope() as s:
        recording.record_read(s, stale, upload, rows(2), "a" * 64)
    expire(Upload)
    again, _ = claim_upload()
    assert again.id == upload.id
    with pytest.raises(StaleClaim), session_scope() as s:
        recording.record_read(s, stale, upload, rows(2, start=2), "b" * 64)
    with read_scope() as s:
        assert recording.read_ordinals(s, upload.id) == {0, 1}


def test_an_upload_that_cannot_be_read_fails_its_job(ann: User) -> None:
    job = submit(ann)
    upload, own = claim_upload()
    with session_scope() as s:
        recording.close_upload(s, own, upload, "file_missing")
    assert (view(job).state, view(job).error) == (JobState.FAILED, "file_missing")
    with session_scope() as s:
        assert jobs.retry_job(s, job) == 1
    assert view(job).state == JobState.RUNNING


def test_results_come_in_pages_that_miss_nothing(ann: User) -> None:
    job = submit(ann)
    unpack(7)
    chunk, own = claim(7)
    by_id = scores(chunk)
    with session_scope() as s:
        scored = [PredictedSlice(x.slice_id, 0.0, (n % 3) / 3, n % 3 == 2, CAM) for n, x in enumerate(by_id)]
        recording.record_predictions(s, own, chunk, "openvino-f32", scored)
    for sort in get_args(results.Sort):
        seen, cursor = [], None
        while True:
            with read_scope() as s:
                page = results.results_page(s, job, ResultsQuery(sort=sort, cursor=cursor, limit=2))
            seen += page.items
            if (cursor := page.next_cursor) is None:
                break
        assert sorted(row.slice_id for row in seen) == sorted(x.slice_id for x in by_id)
        if sort == "-probability":
            assert [row.probability for row in seen] == sorted((r.probability for r in seen), reverse=True)
    with read_scope() as s:
        positives = results.results_page(s, job, ResultsQuery(label="COVID")).items
        series = series_page(s, job, SeriesQuery()).items
    assert {row.label for row in positives} == {"COVID"}
    assert [(x.label, x.slices, x.predicted, x.positive) for x in series] == [("s", 7, 7, len(positives))]
    with pytest.raises(paging.BadCursor), read_scope() as s:
        results.results_page(s, job, ResultsQuery(cursor="nonsense"))


def test_page_of_fifty_jobs_takes_at_most_ten_statements(ann: User, new_champion: NewChampion) -> None:
    jobs_of_two_versions = [submit(ann) for _ in range(25)]
    unpack()
    predict()
    unpack(3, pixels="q")
    new_champion("second")
    jobs_of_two_versions += [submit(ann) for _ in range(25)]
    for version_id in {job.model_version_id for job in jobs_of_two_versions}:
        load_engines(version_id, "ct-1", int8=False)
    with recorded_statements() as statements, read_scope() as s:
        page = job_view.list_jobs(s, ann, limit=50)
    assert len(statements) <= 10
    assert sorted(job.state for job in page.items) == ["finished", *["queued"] * 48, "running"]
    assert sum(job.warning is not None for job in page.items) == 49
    assert {job.id: job for job in page.items} == {job.id: view(job) for job in jobs_of_two_versions}


def test_engine_proofs_are_not_read_for_a_job_that_is_being_predicted(ann: User) -> None:
    job = submit(ann)
    upload, own = claim_upload()
    for start in (0, 2):
        with session_scope() as s:
            recording.record_read(s, own, upload, rows(2, start), "a" * 64)
    load_engines(job.model_version_id, "ct-1", int8=False)
    assert view(job).warning is not None
    predict(2)
    with recorded_statements() as statements:
        view(job)
    assert [line for line in statements if "FROM engine_proof" in line] == []


def test_rows_of_a_job_that_has_ended_are_not_counted_again(ann: User) -> None:
    job = submit(ann)
    unpack()
    predict()
    with read_scope() as s:
        assert s.get_one(Job, job.id).tally == count_tallies(s, [job.id])[job.id]
    with recorded_statements() as statements:
        assert view(job).counts.predicted == 4
    assert [line for line in statements if "FROM slice" in line or "FROM prediction" in line] == []


def test_job_that_is_retried_is_counted_anew(ann: User) -> None:
    job = submit(ann)
    unpack(1)
    _, own = claim()
    with session_scope() as s:
        chunks.quarantine_chunk(s, own, "engine_error")
    assert (view(job).state, view(job).rejections) == (JobState.FINISHED, {"engine_error": 1})
    with session_scope() as s:
        assert jobs.retry_job(s, job) == 1
    assert (view(job).counts.open, view(job).rejections) == (1, {})


def test_sweep_finishes_a_job_whose_last_worker_died_before_it_could(ann: User, champion: ModelVersion) -> None:
    job = submit(ann)
    with session_scope() as s:
        s.execute(update(Upload).values(state=Work.DONE))
    sweep.sweep_ledger()
    assert view(job).state == JobState.FINISHED
