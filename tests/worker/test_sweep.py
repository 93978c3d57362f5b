"""The sweeper's rounds while what it needs is away."""

from sqlalchemy import update

from db.clock import from_now
from db.database import read_scope, session_scope
from db.ledger.backlog import seconds_since_sweep
from db.models import Dataset, Work
from db.settings import Settings
from tests.builders.datasets import add_dataset
from worker import sweep


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
