"""Finds training runs in the database, follows them until they end, and prints them. Reports refused launches."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.orm import Session

from cli.errors import NotFoundOrDenied
from cli.local.datasets import named
from cli.local.follow import follow
from cli.local.session import reading
from cli.output import print_table
from db.datasets import slices
from db.models import TrainingRun, Work
from db.training import runs
from db.training.progress import FIT_SHARE
from db.training.runs import RunView
from training.config import ConfigError
from training.launch.launch import NothingNamed


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a refused run into a usage error, and a name that does not exist into NotFoundOrDenied."""
    try:
        yield
    except NothingNamed as error:
        raise NotFoundOrDenied(f"{error}; `ctbatch datasets ls` and `ctbatch models ls` list them") from error
    except (ConfigError, runs.RunError, slices.DatasetError) as error:
        raise click.UsageError(str(error)) from error


def follow_run(run_id: int, title: str = "") -> RunView:
    """Show a run's progress until it ends, and return its last view.

    Raises:
        JobFailed: the run failed or was cancelled.
        Unavailable: no training worker takes the run, although none is busy with another run.
    """
    return follow(
        title or f"training run {run_id}",
        lambda _update: find_view(run_id),
        note_of,
        is_busy=_is_a_run_active,
        nobody="no training worker takes the run, which stays queued; start one: `ctbatch worker training`",
    )


def _is_a_run_active() -> bool:
    with reading() as session:
        return any(run.state == Work.RUNNING for run in runs.list_runs(session))


def note_of(view: RunView) -> str:
    """Return a line about what a run does now. Leave out the figures of a stage that has ended."""
    if view.progress >= FIT_SHARE:
        return view.message
    live = view.live
    notes = [view.message]
    if live.get("steps"):
        notes.append(f"step {live['step']} of {live['steps']}")
    if live.get("loss") is not None:
        notes.append(f"loss {live['loss']:.3f}")
    if live.get("rate"):
        notes.append(f"{live['rate']:.0f} slices/s")
    if live.get("eta_seconds") and not (view.stopping or view.cancelling):
        notes.append(f"about {live['eta_seconds'] / 60:.0f} min left in this stage")
    return ", ".join(notes)


def find_run(session: Session, run_id: int) -> TrainingRun:
    """Return the run with this id.

    Raises:
        NotFoundOrDenied: there is no such run.
    """
    run = runs.find_run(session, run_id)
    if run is None:
        raise NotFoundOrDenied(f"there is no training run {run_id}; `ctbatch runs ls` lists them")
    return run


def find_view(run_id: int) -> RunView:
    """Return the view of a run. Raises NotFoundOrDenied."""
    with reading() as session:
        return runs.run_view(session, find_run(session, run_id))


def marked(view: RunView) -> RunView:
    """Return the view with the mark of a deleted dataset, for tables."""
    return view.model_copy(update={"dataset": named(view.dataset, view.dataset_deleted)})


def print_view(view: RunView) -> None:
    """Print the main points of a run."""
    names = ("id", "name", "preset", "dataset", "seed", "state", "message", "error", "from_version", "model_version")
    view = marked(view)
    print_table(("", "value"), [(name, getattr(view, name)) for name in names if getattr(view, name) is not None])
