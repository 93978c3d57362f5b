"""The demo model: made by a training worker where the registry has no champion yet."""

import time

from cli.errors import JobFailed, Unavailable
from cli.operator import reading, writing
from cli.output import progress_bar
from cli.server import settings_with_broker
from db import registry, runs
from db.runs import RunView

POLL_SECONDS = 0.5
UNCLAIMED_SECONDS = 120  # a run that no worker takes in this time has no worker


def ensure_demo_model() -> str:
    """Return the champion's label; where there is none, have the demo model made, show how far it is, and promote it.

    Raises:
        JobFailed: the training run failed.
        Unavailable: no broker is known, or no training worker took it.
    """
    with reading() as session:
        if found := registry.champion(session):
            return found.label
    settings_with_broker()  # else the training worker hears of the run from the sweeper only, a minute later
    with writing() as session:
        run_id = runs.create_demo_run(session, None).id
    label = _follow(run_id)
    with writing() as session:
        version = registry.find_version(session, label)
        if version is None:
            raise JobFailed(f"the training run ended, but its model version {label} is not there")
        if registry.champion(session) is None:
            registry.promote(session, version, None, "the first model version")
    return label


def _follow(run_id: int) -> str:
    """Show a run's progress until it has made its model version, and return that one's label."""
    started = time.monotonic()
    with progress_bar("making the demo model", 1.0) as update:
        while True:
            run = _view(run_id)
            update(run.progress, run.message)
            if run.state == "finished" and run.model_version:
                return run.model_version
            if run.state in ("failed", "cancelled"):
                raise JobFailed(f"the demo model was not made: {run.error or run.message or run.state}")
            if run.state == "queued" and time.monotonic() - started > UNCLAIMED_SECONDS:
                raise Unavailable("no training worker takes the run; does `ctbatch worker training` run somewhere?")
            time.sleep(POLL_SECONDS)


def _view(run_id: int) -> RunView:
    with reading() as session:
        run = runs.find_run(session, run_id)
        if run is None:
            raise Unavailable(f"training run {run_id} is gone from the database")
        return runs.run_view(session, run)
