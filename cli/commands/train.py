"""`ctbatch train`: launches a training run."""

import shutil
from pathlib import Path
from typing import Any

import click

from cli.errors import NotFoundOrDenied
from cli.local.session import reading, writing
from cli.local.training_runs import find_view, follow_run, print_view, refusals
from cli.options import json_option
from cli.output import print_json, say
from cli.remote.find_server import settings_with_broker
from cli.training_options import run_options
from db.registry import versions
from db.storage import storage
from training.errors import WeightsError
from training.launch.launch import LaunchPlan, RunRequest, launch, prepare
from training.launch.weights_file import check_size, check_weights_file

PIECE = 1 << 20  # bytes of a file that are copied at once


@click.command()
@click.argument("dataset", metavar="DATASET")
@run_options("default")
@click.option("--from", "start", metavar="MODEL", help="Start from this model version (name/number) or weights file.")
@click.option("--name", default="", help="Name the resulting model version  [default: the dataset's name]")
@click.option("--dry-run", is_flag=True, help="Print the estimate of time and disk, and launch nothing.")
@click.option("--wait/--no-wait", default=False, help="Wait until the run has ended  [default: --no-wait]")
@json_option
def train(
    dataset: str,
    start: str | None,
    name: str,
    dry_run: bool,
    wait: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Launch a training run on DATASET (name, name/number or id). `ctbatch runs` shows its progress.

    With --from MODEL, slices that MODEL was trained on stay in train, and slices that MODEL was tested on stay in test.
    The seed decides only about the other slices. If a part then lacks a class, the run is refused. In that case
    --allow-leak seen-by-parent splits all slices anew.

    First prints an estimate of time and disk space on stderr. If training slices of MODEL are deleted or not in this
    database, the estimate says so.
    """
    settings_with_broker()
    origin: dict[str, Any] = {} if start is None else _origin(start)
    request = RunRequest(dataset=dataset, name=name, **options, **origin)
    with refusals():
        plan = prepare(request, writing, reading)
        _say_estimate(plan)
        if dry_run:
            if as_json:
                print_json(plan.as_dict())
            return
        run_id = launch(plan, writing=writing)
    say(f"training run {run_id}")
    view = follow_run(run_id) if wait else find_view(run_id)
    print_json(view.as_dict()) if as_json else print_view(view)


def _say_estimate(plan: LaunchPlan) -> None:
    sizes = ", ".join(f"{count} {part}" for part, count in plan.slices.items())
    say(f"{plan.dataset.label}: {sizes} slices")
    say(plan.takes.text)
    for note in plan.notes:
        say(f"metrics may be too good: {note}")


def _origin(start: str) -> dict[str, str]:
    """Return the field of RunRequest that `--from` fills. Copy a weights file into storage.

    Raises:
        NotFoundOrDenied: no model version and no file has this name.
        UsageError: the file is too large, or does not hold a ResNet50.
    """
    with reading() as session:
        if version := versions.find_version(session, start):
            return {"from_model": version.label}
    path = Path(start)
    if not path.is_file():
        raise NotFoundOrDenied(f"there is no model version and no file {start}")
    try:
        check_size(path.stat().st_size, str(path))
        with storage().receive() as receiver, path.open("rb") as file:
            shutil.copyfileobj(file, receiver, PIECE)
            receiver.finish()
            check_weights_file(receiver.path, str(path))
            return {"from_weights": receiver.publish().sha256}
    except WeightsError as error:
        raise click.UsageError(str(error)) from error
