"""Turns of uploads: one owner's neither hold up another's for long, nor wait for ever, nor meet their files."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import func, select, update

from db import database as base
from db.database import read_scope, session_scope
from db.ledger import job_view, jobs, queue
from db.ledger.leases import StaleClaim
from db.models import Chunk, Job, JobState, Upload, User, Work
from tests.builders.leases import let_leases_end
from worker.imaging.archives import zip as zip_module
from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool
from worker.jobs import batches, budget, ingest, predict

Entries = Callable[..., dict[str, bytes]]
View = Callable[[Job], job_view.JobView]

pytestmark = pytest.mark.usefixtures("champion")


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files are decoded as they say: `ok 7`, `crash`."""
    function = "tests.worker.imaging.sandbox.hostile_decoder:decode"
    limits = DecodeLimits(cpu_seconds=1, wall_seconds=20)
    with DecoderPool(1, limits, function=function) as pool:
        monkeypatch.setattr(ingest, "decoders", lambda _owner: pool)
        monkeypatch.setattr(batches, "BATCH_SECONDS", 0.0)
        yield


def work() -> None:
    while ingest.unpack_next("w") or predict.predict_next("w"):
        pass


def states() -> list[str]:
    with read_scope() as s:
        return list(s.scalars(select(Upload.state).order_by(Upload.id)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_large_upload_gives_way_after_its_turn_and_goes_on_later(
    kind: str, ann: User, bob: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "TURN_SECONDS", 0.0)
    large, small = submit(ann, slices(60), kind=kind), submit(bob, slices(3, start=1000))
    assert ingest.unpack_next("w")
    assert states() == [Work.READY, Work.READY]
    assert 0 < view(large).stages.read < 60
    with read_scope() as s:
        assert s.get_one(Upload, 1).attempts == 0, "a turn is not an attempt"
    assert ingest.unpack_next("w")
    assert states() == [Work.READY, Work.DONE]
    assert ingest.unpack_next("w")
    assert states() == [Work.DONE, Work.DONE]
    work()
    assert (view(large).counts.predicted, view(small).counts.predicted) == (60, 3)


def test_upload_gives_way_to_a_larger_one(
    ann: User, bob: User, submit: Any, slices: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "TURN_SECONDS", 0.0)
    submit(ann, slices(20))
    submit(bob, slices(30, start=1000))
    assert ingest.unpack_next("w")
    assert states() == [Work.READY, Work.READY]


@pytest.mark.slow
def test_stream_of_small_uploads_does_not_starve_a_large_one(
    ann: User, bob: User, submit: Any, slices: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "TURN_SECONDS", 0.0)
    submit(ann, slices(100))
    for number in range(20):
        submit(bob, slices(1, start=1000 + number))
    turns = 0
    while states()[0] != Work.DONE:
        assert ingest.unpack_next("w")
        turns += 1
    assert states().count(Work.DONE) < 20, "bob's uploads took turns with ann's"
    assert turns >= 6


@pytest.mark.parametrize("other", ["none", "lower priority", "same job"])
def test_upload_is_read_on_where_nobody_else_is_to_be_served(
    other: str, ann: User, bob: User, submit: Any, slices: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "TURN_SECONDS", 0.0)
    large = submit(ann, slices(60))
    if other == "lower priority":
        submit(bob, slices(3, start=1000), priority=-1)
    elif other == "same job":
        with session_scope() as s:
            second = submit(bob, slices(3, start=1000))
            s.execute(update(Upload).where(Upload.job_id == second.id).values(job_id=large.id, position=1))
    assert ingest.unpack_next("w")
    assert states()[0] == Work.DONE


def test_slow_files_are_recorded_before_a_chunk_is_full(
    ann: User, submit: Any, slices: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_SECONDS", 0.0)
    submit(ann, slices(5))
    assert ingest.unpack_next("w")
    with read_scope() as s:
        assert s.scalar(select(func.count(Chunk.id))) == 5


def test_decoders_never_see_files_of_two_owners(ann: User, bob: User, submit: Any, slices: Entries) -> None:
    pids: list[set[int]] = []
    for start, owner in enumerate((ann, ann, bob)):
        submit(owner, slices(3, start=10 * start))
        assert ingest.unpack_next("w")
        pids.append(set(ingest._pool().process_ids))
    assert pids[0] <= pids[1]
    assert not pids[1] & pids[2]


@pytest.mark.slow
@pytest.mark.usefixtures("hostile")
def test_upload_whose_files_crash_decoders_is_rejected_after_so_many(
    ann: User, submit: Any, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "FAILURES", 2)
    good = {f"{n}.png": b"ok %d" % n for n in range(20)}
    job = submit(ann, {"00.png": b"ok 90", "01.png": b"crash", "02.png": b"crash", **good})
    work()
    done = view(job)
    assert done.state == JobState.FINISHED
    assert done.counts.received == 23
    assert done.rejections == {"decoder_crash": 2, "decoder_budget": 20}
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 20
    work()
    done = view(job)
    assert (done.counts.received, done.counts.predicted) == (23, 21), "a retry takes up what the budget did not reach"
    assert done.rejections == {"decoder_crash": 2}
    assert done.is_retryable
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 2
    work()
    assert view(job).rejections == {"decoder_crash": 2}, "the new budget bounds them again"
    again = submit(ann, {"00.png": b"crash", **good})
    work()
    assert view(again).counts.predicted == 20, "another upload has a budget of its own"


@pytest.mark.parametrize("reason", ["decoder_crash", "decoder_timeout"])
def test_files_that_failed_because_of_the_machine_are_decoded_by_a_retry(
    reason: str, ann: User, submit: Any, slices: Entries, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(pool: Any, entries: Any, *_: Any) -> Any:
        for entry in entries:
            yield entry, None, SliceRejected(reason, "the machine had no memory")

    job = submit(ann, slices(3))
    with monkeypatch.context() as patch:
        patch.setattr(ingest, "read_decoded", fails)
        work()
    assert (view(job).rejections, view(job).is_retryable) == ({reason: 3}, True)
    with session_scope() as s:
        assert jobs.retry_job(s, s.get_one(Job, job.id)) == 3
    work()
    assert (view(job).counts.predicted, view(job).rejections, view(job).is_retryable) == (3, {}, False)


@pytest.mark.slow
@pytest.mark.usefixtures("hostile")
def test_crashes_of_an_upload_are_counted_over_all_its_claims(
    ann: User, submit: Any, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "FAILURES", 2)
    job = submit(ann, {"00.png": b"crash", "01.png": b"crash"} | {f"{n:02}.png": b"ok 1" for n in range(2, 12)})
    first_batch = iter([ingest.recording.record_read])

    def record(*given: Any, **named: Any) -> bool:
        if (recorded := next(first_batch, None)) is None:
            raise StaleClaim("the worker was too slow")
        return recorded(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(ingest.recording, "record_read", record)
        assert ingest.unpack_next("w")
    let_leases_end(Upload)
    work()
    assert view(job).rejections == {"decoder_crash": 2, "decoder_budget": 10}


@pytest.mark.slow
@pytest.mark.usefixtures("hostile")
def test_processor_time_of_an_upload_is_bounded_over_all_its_claims(
    ann: User, submit: Any, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    base.use(base.current().model_copy(update={"upload_decode_seconds": 1}))
    job = submit(ann, {"00.png": b"spin"} | {f"{n:02}.png": b"ok 1" for n in range(1, 30)})

    def lose(*_: Any) -> None:
        raise StaleClaim("the worker was too slow")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_list_rest", lose)
        assert ingest.unpack_next("w")
    with session_scope() as s:
        assert s.scalars(select(Upload.decode_seconds)).one() > 1
    let_leases_end(Upload)
    monkeypatch.setattr(zip_module, "_inflated", None)  # nothing is read
    work()
    assert view(job).counts.received == 30
    assert view(job).rejections == {"decoder_timeout": 1, "decoder_budget": 29}


def test_a_suspect_chunk_is_claimed_alone_and_never_beside_other_work(ann: User, submit: Any, slices: Entries) -> None:
    """A slice that ends its worker must not be taken for another that the worker holds too."""
    submit(ann, slices(60))
    assert ingest.unpack_next("w")
    with session_scope() as s:
        suspect = s.scalars(select(Chunk.id).order_by(Chunk.id)).first()
        s.execute(update(Chunk).where(Chunk.id == suspect).values(suspect=True))
        beside = queue.claim_chunks(s, "w", 1000, suspects=False)
        assert [chunk.id for chunk, _ in beside] == s.scalars(
            select(Chunk.id).where(Chunk.id != suspect).order_by(Chunk.id)
        ).all()
        assert not queue.is_any_chunk(s, suspects=False)
        assert [chunk.id for chunk, _ in queue.claim_chunks(s, "w", 1000)] == [suspect]
