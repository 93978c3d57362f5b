"""`ctbatch results`: prints the results of a job as a table, CSV, JSON or Parquet, or saves them in a file."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from cli.errors import Unavailable
from cli.options import NEW_FILE
from cli.output import complete_file, print_table, say
from cli.remote.client import Client, Json, job_path
from cli.remote.findings import print_findings
from cli.remote.follow_job import notice_of
from db import LABELS

STATES = ("open", "predicted", "rejected", "quarantined", "cancelled")
SORTS = ("position", "series", "name", "probability", "-probability")
COLUMNS = ("slice_id", "name", "upload", "frame", "series", "state", "reason", "label", "probability")
SORT_HELP = (
    "Sort slices. position: as submitted. series: by series, and within a series from the feet to the head. A minus"
    " sign reverses the order  [default: position]"
)
FORMATS = ("table", "csv", "json", "parquet")
TABLE_ROWS = 100


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as --format json does.")
@click.option("--slices", is_flag=True, help="List slices, not findings.")
@click.option(
    "--state",
    type=click.Choice(STATES),
    help="Show only slices with this outcome. `open` means that a slice has no outcome yet.",
)
@click.option("--label", type=click.Choice(list(LABELS)), help="Show only slices with this label.")
@click.option("--reason", help="Show only slices with this reason code, of a rejection or a quarantine.")
@click.option("--sort", type=click.Choice(SORTS), help=SORT_HELP)
@click.option("--limit", type=click.IntRange(1), help=f"Show at most this many rows  [default: {TABLE_ROWS}]")
@click.option("-o", "--output", type=NEW_FILE, help="Write CSV, JSON or Parquet to this file.")
def results(
    job_id: str,
    form: str,
    as_json: bool,
    slices: bool,
    sort: str | None,
    limit: int | None,
    output: Path | None,
    **filters: str | None,
) -> None:
    """Print the results of JOB: the findings on its patients and series.

    --slices, --state, --label, --reason, --sort and --limit work only with --format table. If you use any of these
    options, the table lists slices and not findings.

    CSV and Parquet hold all slices. JSON holds all findings and all slices. `ctbatch findings ls` writes only findings.

    Findings exist only after JOB has ended. Before that, the table of findings gives exit code 4. CSV, JSON and Parquet
    then hold only the slices so far. The notice in the file and a line on stderr say that the file is incomplete.
    """
    form = "json" if as_json else form
    if form == "table" and output:
        raise click.UsageError("--output needs --format csv, json or parquet")
    of_slices = bool(slices or sort or limit or any(filters.values()))
    if form != "table" and of_slices:
        raise click.UsageError(
            "--slices, filters, --sort and --limit work only with tables; leave them out, or use --format table"
        )
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is not text; name a file with --output")
    with Client() as client:
        if form == "table" and not of_slices:
            print_findings(client, job_id, {})
            say("--slices shows the slices")
        elif form == "table":
            _print_rows(client, job_id, {**filters, "sort": sort}, limit or TABLE_ROWS)
        else:
            write_pieces(client.stream(job_path(job_id, f"/results.{form}")), output)


def _print_rows(client: Client, job_id: str, params: Mapping[str, str | None], limit: int) -> None:
    notice = notice_of(client.get(job_path(job_id)))
    rows = list(client.pages(job_path(job_id, "/results"), params, limit))
    print_table(COLUMNS, [_cells(row) for row in rows], empty="no rows")
    say(notice)
    if len(rows) == limit:
        shown = "row is" if limit == 1 else f"{limit} rows are"
        say(f"only the first {shown} shown; --limit shows more rows, --format csv all rows")


def _cells(row: Json) -> list[object]:
    probability = row["probability"]
    return [*(row[name] for name in COLUMNS[:-1]), "" if probability is None else f"{probability:.3f}"]


def write_pieces(pieces: Iterable[bytes], output: Path | None) -> None:
    """Write the pieces to stdout, or to the file `output`, which appears only when it is complete."""
    if output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    try:
        with complete_file(output) as file:
            file.writelines(pieces)
    except OSError as error:
        raise Unavailable(f"cannot write {output}: {error.strerror}") from error
