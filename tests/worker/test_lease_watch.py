"""When a lease that has run out counts as lost: not before live workers could renew it."""

import time
from collections.abc import Callable, Container
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from db import database as base
from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import leases, queue
from db.models import Chunk, Upload, User, Work
from db.settings import Settings
from tests.builders.statements import refused_writes
from worker import sweep
from worker.jobs import ingest
from worker.lease_watch import LeaseWatch

Entries = Callable[..., dict[str, bytes]]
START = datetime(2026, 1, 1, tzinfo=UTC)
ENDS = [-1200.0, 10 * 365 * 86_400.0]  # of leases that have run out, in seconds from now


def judged(*seconds: float, only_read: Container[float] = ()) -> list[bool]:
    """Whether a watch that looks at these seconds judges leases each time. Each look also writes, or only reads."""
    watch, answers = LeaseWatch(), []
    for at in seconds:
        answers.append(watch.may_judge(START + timedelta(seconds=at)))
        if at not in only_read:
            watch.wrote(START + timedelta(seconds=at))
    return answers


def test_new_watch_judges_after_a_heartbeat_and_a_sweep(settings: Settings) -> None:
    assert (settings.heartbeat_seconds, settings.sweep_seconds, settings.lease_seconds) == (15, 10, 90)
    assert judged(0, 10, 20, 30, 40) == [False, False, False, True, True]


@pytest.mark.parametrize("gap", [46, 1200, -1200], ids=["short", "long", "clock-set-back"])
def test_watch_that_could_not_look_for_a_while_waits_again(gap: float, settings: Settings) -> None:
    back = 30 + gap
    assert judged(0, 10, 20, 30, back, back + 10, back + 20, back + 30) == [False] * 3 + [True] + [False] * 3 + [True]


def test_watch_that_could_only_read_for_a_while_waits_again(settings: Settings) -> None:
    answers = judged(0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, only_read=range(40, 90))
    assert answers[-4:] == [False, False, False, True]


@pytest.mark.usefixtures("champion")
def test_lease_that_lapsed_while_nobody_could_write_is_renewed_by_its_worker(
    database: Settings, ann: User, submit: Any, slices: Entries
) -> None:
    base.use(database.model_copy(update={"heartbeat_seconds": 0.2, "sweep_seconds": 0.2, "lease_seconds": 2}))
    submit(ann, slices(4))
    ingest.unpack_next("w")
    watch = LeaseWatch()
    sweep.sweep(watch)
    time.sleep(0.5)
    sweep.sweep(watch)  # from now on, it judges
    with session_scope() as s:
        [(_, own)] = queue.claim_chunks(s, "w", 4)
        s.execute(update(Chunk).values(lease_until=from_now(-1)))
    with refused_writes():
        for _ in range(4):
            with pytest.raises(OperationalError):
                sweep.sweep(watch)
            time.sleep(0.4)
    sweep.sweep(watch)
    with session_scope() as s:
        assert leases.keep(s, Chunk, own)


@pytest.mark.parametrize("end", ENDS, ids=["past", "clock-set-back"])
@pytest.mark.usefixtures("champion")
def test_lease_that_lapsed_in_a_pause_is_renewed_by_its_worker(
    end: float, ann: User, submit: Any, slices: Entries
) -> None:
    submit(ann, slices(4))
    ingest.unpack_next("w")
    with session_scope() as s:
        [(_, own)] = queue.claim_chunks(s, "w", 4)
        s.execute(update(Chunk).values(lease_until=from_now(end)))
    sweep.free_lost(LeaseWatch())
    with session_scope() as s:
        assert leases.keep(s, Chunk, own)


@pytest.mark.parametrize("end", ENDS, ids=["past", "clock-set-back"])
@pytest.mark.usefixtures("champion")
def test_lease_of_a_worker_that_does_not_come_back_is_lost(
    end: float, database: Settings, ann: User, submit: Any, slices: Entries
) -> None:
    base.use(database.model_copy(update={"heartbeat_seconds": 0.1, "sweep_seconds": 0.1}))
    submit(ann, slices(1))
    ingest.unpack_next("w")
    with session_scope() as s:
        queue.claim_chunks(s, "w", 1)
        s.execute(update(Chunk).values(lease_until=from_now(end)))
    watch = LeaseWatch()
    sweep.sweep(watch)
    time.sleep(0.3)
    sweep.sweep(watch)
    with read_scope() as s:
        chunk = s.query(Chunk).one()
        assert (chunk.state, chunk.suspect) == (Work.READY, True)


@pytest.mark.usefixtures("champion")
def test_upload_whose_lease_lapsed_in_a_pause_is_nobody_elses_and_loses_no_attempt(
    ann: User, submit: Any, slices: Entries
) -> None:
    submit(ann, slices(4))
    with session_scope() as s:
        own = queue.claim_upload(s, "w")
        s.execute(update(Upload).values(lease_until=from_now(-1200)))
    sweep.free_lost(LeaseWatch())
    with session_scope() as s:
        assert queue.claim_upload(s, "other") is None
        assert own is not None
        assert leases.keep(s, Upload, own)
        assert s.query(Upload).one().attempts == 1


@pytest.mark.usefixtures("champion")
def test_upload_of_a_worker_that_does_not_come_back_is_claimed_again(
    database: Settings, ann: User, submit: Any, slices: Entries
) -> None:
    base.use(database.model_copy(update={"heartbeat_seconds": 0.1, "sweep_seconds": 0.1}))
    submit(ann, slices(1))
    with session_scope() as s:
        queue.claim_upload(s, "w")
        s.execute(update(Upload).values(lease_until=from_now(-1200)))
    watch = LeaseWatch()
    sweep.sweep(watch)
    time.sleep(0.3)
    sweep.sweep(watch)
    with session_scope() as s:
        assert leases.unsent(s, Upload) == [1], "its message is due"
        assert queue.claim_upload(s, "other") is not None
        assert s.query(Upload).one().attempts == 2
