"""What the commands on training runs share: refusals at launch, a run's view, following it to its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from cli.errors import JobFailed, NotFoundOrDenied, Unavailable
from cli.local.session import reading
from cli.output import print_table, progress_bar
from db.datasets import slices
from db.models import Work
from db.training import runs
from db.training.runs import RunView
from training.config import ConfigError
from training.launch.launch import NothingNamed

POLL_SECONDS = 1.0
UNCLAIMED_SECONDS = 120  # a run that no worker takes in this time has no worker


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what stands against a run into a usage error."""
    try:
        yield
    except NothingNamed as error:
        raise NotFoundOrDenied(f"{error}; `ctbatch datasets ls` and `ctbatch models ls` list them") from error
    except (ConfigError, runs.RunError, slices.DatasetError) as error:
        raise click.UsageError(str(error)) from error


def follow(run_id: int, title: str = "") -> RunView:
    """Show a run's progress until it ends, and return its last view.

    Raises:
        JobFailed: it failed or was cancelled.
        Unavailable: no training worker took it, and none is at work on another.
    """
    title = title or f"training run {run_id}"
    waiting_since = time.monotonic()
    with progress_bar(title, 1.0) as update:
        while True:
            view = find_view(run_id)
            update(view.progress, _note(view))
            if view.state == "finished":
                return view
            if view.state in ("failed", "cancelled"):
                raise JobFailed(f"{title} {view.state}: {view.error or view.message}")
            if view.state != "queued" or _another_runs():
                waiting_since = time.monotonic()
            elif time.monotonic() - waiting_since > UNCLAIMED_SECONDS:
                raise Unavailable("no training worker takes the run; does `ctbatch worker training` run somewhere?")
            time.sleep(POLL_SECONDS)


def _another_runs() -> bool:
    """Whether a worker is busy with a run: then one that waits has to be patient."""
    with reading() as session:
        return any(run.state == Work.RUNNING for run in runs.list_runs(session))


def _note(view: RunView) -> str:
    live = view.live
    parts = [view.message]
    if live.get("steps"):
        parts.append(f"step {live['step']} of {live['steps']}")
    if live.get("loss") is not None:
        parts.append(f"loss {live['loss']:.3f}")
    if live.get("rate"):
        parts.append(f"{live['rate']:.0f} images/s")
    if live.get("eta_seconds"):
        parts.append(f"about {live['eta_seconds'] / 60:.0f} min left in this stage")
    return ", ".join(parts)


def find_view(run_id: int) -> RunView:
    with reading() as session:
        run = runs.find_run(session, run_id)
        if run is None:
            raise NotFoundOrDenied(f"there is no training run {run_id}")
        return runs.run_view(session, run)


def print_view(view: RunView) -> None:
    facts = ("id", "name", "preset", "dataset", "seed", "state", "message", "error", "from_version", "model_version")
    print_table(("", "value"), [(name, getattr(view, name)) for name in facts if getattr(view, name) is not None])
