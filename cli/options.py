"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.home import use_home
from db import MAX_INTEGER

PORT_HELP = "Listen at this port. 0 chooses a free port.  [env: PORT; default: 8000]"
PATH = click.Path(exists=True, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
ROW_ID = click.IntRange(0, MAX_INTEGER)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
strict_option = click.option("--strict", is_flag=True, help="Exit with 5 also if a file was rejected.")


def need_wait(strict: bool, wait: bool) -> None:
    """Refuse `--strict` without `--wait`, because the command would not know how the job ends.

    Raises:
        click.UsageError: there is `--strict` but not `--wait`.
    """
    if strict and not wait:
        raise click.UsageError("--strict checks how the job ends; add --wait")


insecure_option = click.option(
    "--insecure",
    is_flag=True,
    help="Serve other machines without encryption. Anybody on the network can then read passwords and scans.",
)


def _use_home(_ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        use_home(value)
    return value


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--home DIR`. It takes effect before the command reads any setting."""
    return click.option(
        "--home",
        type=NEW_FOLDER,
        callback=_use_home,
        expose_value=False,
        help="Keep all files of ctbatch in this folder  [env: CTBATCH_HOME; default: ~/.ctbatch]",
    )(command)
