"""`ctbatch runs`: lists, shows, follows and ends training runs."""

from collections.abc import Callable

import click
from sqlalchemy.orm import Session

from cli.errors import JobFailed
from cli.local.session import reading, writing
from cli.local.training_runs import find_run, find_view, follow_run, marked, print_view
from cli.options import ROW_ID, json_option
from cli.output import print_json, print_table, say
from db.models import OPEN_WORK, TrainingRun
from db.training import runs

run_argument = click.argument("run_id", metavar="RUN", type=ROW_ID)


@click.group(name="runs")
def runs_group() -> None:
    """List, show, follow and end training runs.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


@runs_group.command("ls")
@json_option
def list_runs(as_json: bool) -> None:
    """List all runs, newest first."""
    with reading() as session:
        views = [runs.run_view(session, run) for run in runs.list_runs(session)]
    if as_json:
        print_json([view.as_dict() for view in views])
        return
    columns = ("run", "name", "preset", "dataset", "state", "message", "model version")
    names = ("id", "name", "preset", "dataset", "state", "message", "model_version")
    rows = [[getattr(view, name) for name in names] for view in map(marked, views)]
    print_table(columns, rows, empty="no training run yet; `ctbatch train DATASET` launches one")


@runs_group.command()
@run_argument
@json_option
def show(run_id: int, as_json: bool) -> None:
    """Show a run: its state and its epochs. In JSON, stages and epochs are numbered from 0."""
    view = find_view(run_id)
    with reading() as session:
        epochs = runs.epochs_of(session, run_id)
    if as_json:
        rows = [{"stage": one.stage, "epoch": one.epoch, "seconds": one.seconds, **one.metrics} for one in epochs]
        print_json(view.as_dict() | {"epochs": rows})
        return
    print_view(view)
    stages = [stage["name"] for stage in view.config["stages"]]
    columns = ("loss", "accuracy", "val_loss", "val_accuracy", "val_auc")
    print_table(
        ("stage", "epoch", *columns, "seconds"),
        [
            (stages[one.stage], one.epoch + 1, *(_rounded(one.metrics.get(name)) for name in columns),
             _rounded(one.seconds))
            for one in epochs
        ],
        empty="no epoch yet",
    )  # fmt: skip


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


@runs_group.command()
@run_argument
@json_option
def wait(run_id: int, as_json: bool) -> None:
    """Follow a run until it ends."""
    view = follow_run(run_id)
    print_json(view.as_dict()) if as_json else print_view(view)


@runs_group.command()
@run_argument
def cancel(run_id: int) -> None:
    """End a run within seconds, and keep nothing."""
    _ask(run_id, runs.cancel_run)
    say(f"training run {run_id} is being cancelled")


@runs_group.command()
@run_argument
def stop(run_id: int) -> None:
    """Stop training now, and make a model version.

    With the presets default and seed, the version gets the weights of the best epoch so far. With scratch and quick, it
    gets the current weights. If the previous stage ended with a lower validation loss than the current weights, the
    version gets the weights of the previous stage. A run that waits (for a worker or for disk space) can be stopped
    only if it has a checkpoint.
    """
    _ask(run_id, runs.stop_run)
    say(f"training run {run_id} is being stopped; it keeps what it has learned")


def _ask(run_id: int, request: Callable[[Session, TrainingRun], bool]) -> None:
    with writing() as session:
        run = find_run(session, run_id)
        if not request(session, run):
            waits = "it is not running, and has no checkpoint; cancel it instead"
            raise JobFailed(f"training run {run_id}: {waits if run.state in OPEN_WORK else 'it has ended already'}")
