"""`ctbatch train`: launches a training run, follows it, and asks it to end."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cli.errors import JobFailed, NotFoundOrDenied, Unavailable
from cli.operator import reading, writing
from cli.options import ROW_ID, json_option, run_options
from cli.output import print_json, print_table, progress_bar, say
from cli.server import settings_with_broker
from db import datasets, registry, runs
from db.models import Work
from db.runs import RunView
from db.storage import storage
from training.config import ConfigError
from training.launch import FILE, MODEL, Asked, NothingNamed, Prepared, launch, prepare

POLL_SECONDS = 1.0
UNCLAIMED_SECONDS = 120  # a run that no worker takes in this time has no worker


@click.command()
@click.argument("dataset", metavar="DATASET")
@run_options("default")
@click.option(
    "--from", "start", metavar="MODEL", help="Start from a model version (name/number), or from a weights file."
)
@click.option("--name", default="", help="Of the model version that comes of it; the dataset's unless given.")
@click.option("--dry-run", is_flag=True, help="Only tell what the run would take; launch nothing.")
@click.option("--wait/--no-wait", default=False, help="Follow it to its end.")
@json_option
def train(
    dataset: str,
    start: str | None,
    name: str,
    settings: Sequence[str],
    dry_run: bool,
    wait: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Launch a training run on DATASET (name, name/number or id). See `ctbatch runs` for what becomes of it.

    From a model version: what that was trained on stays in train, and what it was tested on in test, whatever the seed;
    other slices are drawn. Where too little is left to test on, --allow-leak seen-by-parent draws all parts anew.

    The estimate of time and disk is printed first, on stderr.
    """
    settings_with_broker()
    initial = [] if start is None else [_initial(start)]
    asked = Asked(dataset, settings=[*initial, *settings], name=name, **options)
    with refusals():
        prepared = prepare(asked, writing, reading)
        _say_estimate(prepared)
        if dry_run:
            if as_json:
                print_json(prepared.as_dict())
            return
        run_id = launch(prepared, writing=writing)
    say(f"training run {run_id}")
    view = follow(run_id) if wait else _view(run_id)
    print_json(view.as_dict()) if as_json else _print(view)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what stands against a run into a usage error."""
    try:
        yield
    except NothingNamed as error:
        raise NotFoundOrDenied(f"{error}; `ctbatch datasets ls` and `ctbatch models ls` list them") from error
    except (ConfigError, runs.RunError, datasets.DatasetError) as error:
        raise click.UsageError(str(error)) from error


def _say_estimate(prepared: Prepared) -> None:
    sizes = ", ".join(f"{count} {part}" for part, count in prepared.slices.items())
    say(f"{prepared.dataset.title}: {sizes} slices")
    say(prepared.takes.text)


def _initial(start: str) -> str:
    """The setting `initial` for `--from`; a file that holds a ResNet50 goes into storage.

    Raises NotFoundOrDenied, UsageError.
    """
    with reading() as session:
        if version := registry.find_version(session, start):
            return f"initial={MODEL}{version.label}"
    path = Path(start)
    if not path.is_file():
        raise NotFoundOrDenied(f"there is no model version and no file {start}")
    from training.weights_file import WeightsError, check_weights_file  # h5py: only where a file is given

    try:
        check_weights_file(path)
    except WeightsError as error:
        raise click.UsageError(str(error)) from error
    receiver = storage().receive()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            receiver.write(data)
    return f"initial={FILE}{receiver.close().sha256}"


@click.group(name="runs")
def runs_group() -> None:
    """List, show, follow and end training runs. Acts on the database of this machine's settings."""


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
    rows = [(v.id, v.name, v.preset, v.dataset, v.state, v.message, v.model_version) for v in views]
    print_table(columns, rows, empty="no training run yet; `ctbatch train DATASET` launches one")


@runs_group.command()
@click.argument("run_id", metavar="RUN", type=ROW_ID)
@json_option
def show(run_id: int, as_json: bool) -> None:
    """Show a run: where it stands, and its epochs."""
    view = _view(run_id)
    with reading() as session:
        epochs = [
            {"stage": e.stage, "epoch": e.epoch, "seconds": e.seconds, **e.metrics}
            for e in runs.epochs_of(session, run_id)
        ]
    if as_json:
        print_json(view.as_dict() | {"epochs": epochs})
        return
    _print(view)
    columns = ("stage", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_auc", "seconds")
    print_table(columns, [[_rounded(epoch.get(name)) for name in columns] for epoch in epochs], empty="no epoch yet")


@runs_group.command()
@click.argument("run_id", metavar="RUN", type=ROW_ID)
@json_option
def wait(run_id: int, as_json: bool) -> None:
    """Follow a run to its end."""
    view = follow(run_id)
    print_json(view.as_dict()) if as_json else _print(view)


@runs_group.command()
@click.argument("run_id", metavar="RUN", type=ROW_ID)
def cancel(run_id: int) -> None:
    """End a run within seconds and keep nothing of it."""
    _ask(run_id, runs.cancel_run, "it has ended already")
    say(f"training run {run_id} is being cancelled")


@runs_group.command()
@click.argument("run_id", metavar="RUN", type=ROW_ID)
def stop(run_id: int) -> None:
    """End a run's training now and make a model version of the best epoch so far.

    A stage that keeps its last epoch (as in scratch and quick) gives its weights as they are now.
    """
    _ask(run_id, runs.stop_run, "it is not running")
    say(f"training run {run_id} stops, and keeps what it has learned")


def _ask(run_id: int, ask: Any, otherwise: str) -> None:
    with writing() as session:
        run = runs.find_run(session, run_id)
        if run is None:
            raise NotFoundOrDenied(f"there is no training run {run_id}")
        if not ask(session, run):
            raise JobFailed(f"training run {run_id}: {otherwise}")


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
            view = _view(run_id)
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


def _view(run_id: int) -> RunView:
    with reading() as session:
        run = runs.find_run(session, run_id)
        if run is None:
            raise NotFoundOrDenied(f"there is no training run {run_id}")
        return runs.run_view(session, run)


def _print(view: RunView) -> None:
    facts = ("id", "name", "preset", "dataset", "seed", "state", "message", "error", "from_version", "model_version")
    print_table(("", "value"), [(name, getattr(view, name)) for name in facts if getattr(view, name) is not None])


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
