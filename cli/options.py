"""Options that several commands share, written once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.main import use_home
from db.splits import MAX_SEED

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")

as_given_option = click.option(
    "--groups-as-given",
    "as_given",
    is_flag=True,
    help="Split by the groups as given; else groups that share near-identical slices stay in one part.",
)


def seed_option(told: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--seed`; `told`: what it is of."""
    return click.option("--seed", type=click.IntRange(0, MAX_SEED), default=7, show_default=True, help=told)


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
