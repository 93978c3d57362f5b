"""The sweeper's rounds while what it needs is away."""

import os
import threading
import time
from collections.abc import Callable
from signal import SIGINT, SIGTERM
from types import SimpleNamespace

import pytest
from sqlalchemy import update

from db import broker
from db import database as base
from db.broker import Queue
from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger import leases
from db.ledger.backlog import backlog, seconds_since_sweep
from db.models import Dataset, ModelVersion, Work
from db.settings import Settings
from tests.builders.datasets import add_dataset
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
