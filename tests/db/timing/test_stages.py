"""Processor time is counted by stage, added up over processes, and neither lost nor doubled by a failed transaction."""

from collections.abc import Iterator

import pytest

from db.database import read_scope, session_scope
from db.settings import Settings
from db.timing import stages
from db.timing.published import publish, sums
from db.timing.stages import Spent, Stage, shared_time, timed


@pytest.fixture(autouse=True)
def nothing_counted() -> Iterator[None]:
    """Forget what other tests of this process have counted."""
    stages.forget(stages.counted())
    yield
    stages.forget(stages.counted())


def published(stage: Stage) -> Spent:
    with read_scope() as s:
        return sums(s)[stage]


def test_time_of_failed_work_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.time, "thread_time", iter((1.0, 3.5)).__next__)
    with pytest.raises(ZeroDivisionError), timed(Stage.ENGINE):
        raise ZeroDivisionError
    assert stages.counted()[Stage.ENGINE].seconds == 2.5
    assert sum(stages.counted()[Stage.ENGINE].counts) == 1


def test_time_that_two_blocks_share_is_counted_once_and_without_other_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.time, "process_time", iter((1.0, 3.0, 4.0)).__next__)
    with shared_time(Stage.ENGINE, 10), shared_time(Stage.ENGINE, 20):
        stages.add(Stage.RECORD, 0.5)
    engine = stages.counted()[Stage.ENGINE]
    assert (engine.seconds, sum(engine.counts)) == (2.5, 30)


def test_sums_grow_by_what_each_transaction_publishes(database: Settings) -> None:
    for _ in range(2):
        stages.add(Stage.DECODE, 0.3, slices=100)
        with session_scope() as s:
            publish(s)
    decode = published(Stage.DECODE)
    assert decode.seconds == pytest.approx(0.6)
    assert decode.counts[stages.BOUNDS.index(0.005)] == sum(decode.counts) == 200
    assert published(Stage.HASH).seconds == 0


def test_what_a_failed_transaction_published_is_published_by_the_next(database: Settings) -> None:
    stages.add(Stage.RECORD, 1.0)

    def fail() -> None:
        with session_scope() as s:
            publish(s)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with session_scope() as s:
        publish(s)
    assert published(Stage.RECORD).seconds == pytest.approx(1.0)


def test_part_of_a_stage_adds_time_and_no_slice() -> None:
    stages.add(Stage.HASH, 0.001)
    stages.add(Stage.HASH, 0.002, slices=0)
    assert (stages.counted()[Stage.HASH].seconds, sum(stages.counted()[Stage.HASH].counts)) == (0.003, 1)
