"""`ctbatch tune`: finds the quickest engine settings for this machine, and stores them."""

from pathlib import Path

import click

from cli.local.tuning import describe, tune_champion, tune_engine
from cli.options import FOLDER, home_option, json_option
from cli.output import print_json, say


@click.command()
@click.option("--package", type=FOLDER, help="Tune the engine of this model package  [default: the champion's]")
@home_option
@json_option
def tune(package: Path | None, as_json: bool) -> None:
    """Find the quickest engine settings for this machine, and store them.

    Takes half a minute at most. Run nothing else meanwhile. Tries different numbers of parallel requests, and of slices
    in a request. The result is valid for this processor and this model. Workers use it when they next load the model.
    Only OpenVINO's engines are tuned. `ctbatch doctor` shows the result.
    """
    if not as_json:
        say("tuning the engine; this takes half a minute at most")
    name, tuning = tune_engine(package) if package else tune_champion()
    if as_json:
        print_json({"engine": name, **tuning.model_dump()})
    else:
        click.echo(describe(name, tuning))
        click.echo("Workers use this when they next load the model: start them again.")
