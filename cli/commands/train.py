"""`ctbatch train`: launches a training run."""

from pathlib import Path
from typing import Any

import click

from cli.errors import NotFoundOrDenied
from cli.local.session import reading, writing
from cli.local.training_runs import find_view, follow, print_view, refusals
from cli.options import json_option, run_options
from cli.output import print_json, say
from cli.remote.find_server import settings_with_broker
from db.registry import versions
from db.storage import storage
from training.errors import WeightsError
from training.launch.launch import LaunchPlan, RunRequest, launch, prepare


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
    origin: dict[str, Any] = {} if start is None else _origin(start)
    request = RunRequest(dataset=dataset, name=name, **options, **origin)
    with refusals():
        prepared = prepare(request, writing, reading)
        _say_estimate(prepared)
        if dry_run:
            if as_json:
                print_json(prepared.as_dict())
            return
        run_id = launch(prepared, writing=writing)
    say(f"training run {run_id}")
    view = follow(run_id) if wait else find_view(run_id)
    print_json(view.as_dict()) if as_json else print_view(view)


def _say_estimate(prepared: LaunchPlan) -> None:
    sizes = ", ".join(f"{count} {part}" for part, count in prepared.slices.items())
    say(f"{prepared.dataset.label}: {sizes} slices")
    say(prepared.takes.text)


def _origin(start: str) -> dict[str, str]:
    """Return the field of RunRequest that `--from` fills; a file that holds a ResNet50 goes into storage.

    Raises NotFoundOrDenied, UsageError.
    """
    with reading() as session:
        if version := versions.find_version(session, start):
            return {"from_model": version.label}
    path = Path(start)
    if not path.is_file():
        raise NotFoundOrDenied(f"there is no model version and no file {start}")
    from training.launch.weights_file import check_weights_file  # h5py: only where a file is given

    try:
        check_weights_file(path)
    except WeightsError as error:
        raise click.UsageError(str(error)) from error
    receiver = storage().receive()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            receiver.write(data)
    return {"from_weights": receiver.close().sha256}
