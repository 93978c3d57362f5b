"""The sweeper's rounds while what it needs is away."""

import os
import threading
import time
from collections.abc import Callable
from signal import SIGINT, SIGTERM
from types import SimpleNamespace

import pytest
from sqlalchemy import select, update

from db import broker
from db import database as base
from db.broker import Queue
from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import leases
from db.ledger.backlog import backlog, seconds_since_sweep
from db.ledger.leases import Claim
from db.models import Dataset, ModelVersion, TrainingRun, Work
from db.settings import Settings
from db.training import runs
from db.training.progress import StoredCheckpoint
from db.training.runs import NewRun
from tests.builders.datasets import add_dataset, add_split
from tests.builders.leases import let_leases_end
from worker import sweep
from worker.engines import trial
from worker.lease_watch import LeaseWatch
from worker.reap import Reaped


def test_sweep_without_a_broker_shows_that_the_sweeper_lives(database: Settings) -> None:
    add_dataset("waiting", 24)
    with session_scope() as s:
        s.execute(update(Dataset).values(state=Work.READY, published_at=from_now(-10_000)))
    database.run_dir.mkdir()
    sweep.sweep()  # the settings name a broker that is not there
    assert (database.run_dir / "sweep.ready").exists()
    with read_scope() as s:
        since = seconds_since_sweep(s)
    assert since is not None
    assert since < 600


def test_work_from_before_the_clock_was_set_back_goes_on(database: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker of one row died, the message of another was lost, and the third was put off."""
    lost, unsent, put_off = (add_dataset(name, 24).id for name in ("lost", "unsent", "put-off"))
    later = from_now(10 * 365 * 86_400)
    with session_scope() as s:
        s.execute(update(Dataset).values(state=Work.READY, published_at=later))
        s.execute(update(Dataset).where(Dataset.id == lost).values(state=Work.RUNNING, lease_until=later))
        s.execute(update(Dataset).where(Dataset.id == put_off).values(lease_until=later))
    with read_scope() as s:
        assert (backlog(s, Dataset).running, backlog(s, Dataset).expired) == (0, 1)
        assert set(leases.unsent(s, Dataset)) == {unsent, put_off}
    sweep.sweep_ledger()
    for row_id in (lost, unsent, put_off):
        with session_scope() as s:
            assert leases.take(s, Dataset, row_id, "w")
    with session_scope() as s:
        assert leases.expired(s, Dataset) == []


def claimed_run() -> Claim:
    """Launch a run, and claim it as a worker that has trained for a while."""
    dataset = add_dataset()
    split = add_split(dataset)
    with session_scope() as s:
        runs.create_run(s, NewRun(dataset, split, "seed", {"stages": []}, seed=7))
    with session_scope() as s:
        _, claim = runs.claim_run(s, "w")
        runs.report(s, claim, 0.3, "small: epoch 2 of 12")
    return claim


def test_run_of_a_lost_worker_says_that_it_waits(settings: Settings) -> None:
    claimed_run()
    let_leases_end(TrainingRun)
    with read_scope() as s:
        run = s.scalars(select(TrainingRun)).one()
        assert (run.state, run.message) == (Work.READY, "waiting for a worker")


@pytest.mark.parametrize("end", ["lost", "given back", "put off"])
def test_cancelled_run_ends_without_its_worker(end: str, settings: Settings) -> None:
    claim = claimed_run()
    with session_scope() as s:
        runs.record_checkpoint(s, claim, StoredCheckpoint(stage=0, epoch=0))
        assert runs.cancel_run(s, s.get_one(TrainingRun, claim.id))
        if end == "lost":
            s.execute(update(TrainingRun).values(lease_until=from_now(-1)))
        elif end == "given back":
            leases.give_back(s, TrainingRun, claim)
        else:
            runs.put_off(s, claim, "the disk is full")
    sweep.sweep_ledger()
    with read_scope() as s:
        run = s.scalars(select(TrainingRun)).one()
        assert (run.state, run.message, run.checkpoint) == (Work.CANCELLED, "cancelled", {})
        assert run.finished_at is not None


def test_imported_version_that_nobody_has_tried_wakes_a_worker(
    champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[Queue] = []
    monkeypatch.setattr(broker, "waiting", lambda queue: len(woken))
    monkeypatch.setattr(broker, "wake", lambda queue: woken.append(queue) or True)
    sweep.send_again()
    assert woken == []
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).facts = {"imported": {}}
    for _ in range(2):
        sweep.send_again()
    assert woken == [Queue.INFERENCE]
    trial.try_version(champion)
    woken.clear()
    sweep.send_again()
    assert woken == []


def test_slow_reaping_holds_up_no_sweep(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    base.use(settings.model_copy(update={"sweep_seconds": 0.01}))
    rounds: list[LeaseWatch] = []
    while_reaping: list[int] = []
    handlers: dict[int, Callable[..., None]] = {}

    def reap() -> Reaped:
        before, until = len(rounds), time.monotonic() + 5
        while len(rounds) < before + 3 and time.monotonic() < until:
            time.sleep(0.01)
        while_reaping.append(len(rounds) - before)
        handlers[SIGTERM](SIGTERM, None)  # a real signal would be one for the process that runs the tests
        return Reaped(0, 0, 0)

    monkeypatch.setattr(sweep, "reap", reap)
    monkeypatch.setattr(sweep, "sweep", rounds.append)
    monkeypatch.setattr(sweep, "signal", SimpleNamespace(signal=handlers.__setitem__, SIGTERM=SIGTERM, SIGINT=SIGINT))
    monkeypatch.setattr("db.logs.configure", lambda _: None)
    mask = os.umask(0o022)
    sweep.main()
    assert os.umask(mask) == 0o077, "stored files are for the sweeper's user alone"
    assert while_reaping[0] >= 3


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("a fault")], ids=str)
def test_reaper_goes_on_after_an_error(error: Exception, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    base.use(settings.model_copy(update={"sweep_seconds": 0.01}))
    rounds: list[int] = []
    stop = threading.Event()

    def reap() -> Reaped:
        rounds.append(1)
        if len(rounds) > 1:
            stop.set()
        raise error

    monkeypatch.setattr(sweep, "reap", reap)
    sweep.reap_until(stop)
    assert len(rounds) == 2
