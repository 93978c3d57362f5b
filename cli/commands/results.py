"""`ctbatch results`: the rows of a job as a table, as CSV or as JSON, on stdout or in a file."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from cli.errors import Unavailable
from cli.output import RESEARCH_LINE, print_table, say
from cli.remote.client import Client, Json
from db import LABELS

STATES = ("open", "predicted", "rejected", "quarantined", "cancelled")
SORTS = ("position", "name", "probability", "-probability")
COLUMNS = ("slice_id", "name", "frame", "series", "state", "reason", "label", "probability")
TABLE_ROWS = 100  # of a table, unless --limit says another number


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--format", "form", type=click.Choice(("table", "csv", "json")), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--state", type=click.Choice(STATES), help="Only slices in this state.")
@click.option("--label", type=click.Choice(list(LABELS)), help="Only slices with this label.")
@click.option("--reason", help="Only slices rejected for this reason, as `missing`.")
@click.option("--sort", type=click.Choice(SORTS), help="Order of a table; - for falling.")
@click.option("--limit", type=click.IntRange(1), help=f"Rows of a table; {TABLE_ROWS} unless said.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write CSV or JSON to this file.")
def results(
    job_id: str,
    form: str,
    as_json: bool,
    sort: str | None,
    limit: int | None,
    output: Path | None,
    **filters: str | None,
) -> None:
    """Print the results of JOB: a table of the first rows, or all rows as CSV or JSON, streamed."""
    form = "json" if as_json else form
    if form == "table" and output:
        raise click.UsageError("--output needs --format csv or json")
    if form != "table" and (sort or limit or any(filters.values())):
        raise click.UsageError("filters, --sort and --limit are for tables; CSV and JSON hold every row, in its order")
    with Client() as client:
        if form == "table":
            _print_rows(client, job_id, {**filters, "sort": sort}, limit or TABLE_ROWS)
        else:
            _write(client.stream(f"/jobs/{job_id}/results.{form}"), output)


def _print_rows(client: Client, job_id: str, params: dict[str, Any], limit: int) -> None:
    rows = list(client.pages(f"/jobs/{job_id}/results", params, limit))
    print_table(COLUMNS, [_cells(row) for row in rows], empty="no rows")
    say(RESEARCH_LINE)
    if len(rows) == limit:
        say(f"the first {limit} rows; --limit shows more, --format csv all")


def _cells(row: Json) -> list[object]:
    shown: list[object] = [row[name] for name in COLUMNS[:-1]]
    probability = row["probability"]
    return [*shown, "" if probability is None else f"{probability:.3f}"]


def _write(pieces: Iterable[bytes], output: Path | None) -> None:
    """Write to stdout, or to a file that gets its name only when it is whole."""
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    draft = output.with_name(output.name + ".part")
    try:
        with draft.open("wb") as file:
            file.writelines(pieces)
        draft.replace(output)
    except OSError as error:
        raise Unavailable(f"cannot write {output}: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)
