"""Options that several commands share, written once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.home import use_home
from db import MAX_INTEGER
from training.config import PRESETS

ROW_ID = click.IntRange(0, MAX_INTEGER)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
strict_option = click.option("--strict", is_flag=True, help="Exit with 5 if anything was rejected, too.")


def need_wait(strict: bool, wait: bool) -> None:
    """Refuse `--strict` where nobody waits for the job's end: it would promise a check that is never made.

    Raises:
        click.UsageError: it is so.
    """
    if strict and not wait:
        raise click.UsageError("--strict is about how the job ends; add --wait")


as_given_option = click.option(
    "--groups-as-given",
    is_flag=True,
    help="Split by the groups as given; else groups that share near-identical slices stay in one part.",
)


def seed_option(told: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--seed`; `told`: what it is of."""
    return click.option("--seed", type=click.IntRange(0, MAX_INTEGER), default=7, show_default=True, help=told)


def run_options(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a training run, named as the fields of `RunRequest`; `default`: the preset."""
    options = (
        click.option("--preset", type=click.Choice(sorted(PRESETS)), default=default, show_default=True),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change one setting of the preset: stages.head.epochs=5",
        ),
        seed_option("Of the split, the weights and the order."),
        as_given_option,
        click.option(
            "--allow-leak",
            "allow_leaks",
            multiple=True,
            metavar="LEAK",
            help="Train all the same, by the leak's name.",
        ),
    )

    def added(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return added


def _use_home(_ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        use_home(value)
    return value


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--home DIR`, which is in force before the command's body reads any setting."""
    return click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        callback=_use_home,
        expose_value=False,
        help="Folder that holds everything  [env: CTBATCH_HOME; default: ~/.ctbatch]",
    )(command)
