"""A job's whole results as CSV and as JSON, a piece at a time: memory does not grow with the job."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from db import RESEARCH_USE_ONLY
from db.ledger.results import ResultRow, iter_results
from db.models import Job

COLUMNS = (
    "slice_id",
    "name",
    "frame",
    "series",
    "state",
    "reason",
    "detail",
    "label",
    "probability",
    "distance",
    "ood",
    "model_version",
    "recipe",
    "sha256",
    "format",
    "width",
    "height",
    "notice",
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
ROWS_A_PIECE = 200


def safe_cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets an apostrophe before it (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def csv_lines(job: Job) -> Iterator[str]:
    """The CSV (RFC 4180): a header, then one row a slice in the order of the submission.

    The notice is the last column of each row, so that it stays when rows are copied out, and so that every reader
    of CSV reads the file; a comment line would break most.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for number, row in enumerate(iter_results(job), start=1):
        values = {**row.as_dict(), "notice": RESEARCH_USE_ONLY}
        writer.writerow([safe_cell(values[column]) for column in COLUMNS])
        if number % ROWS_A_PIECE == 0:
            yield _drain(text)
    yield _drain(text)


def _drain(text: io.StringIO) -> str:
    piece = text.getvalue()
    text.seek(0)
    text.truncate()
    return piece


def json_pieces(job: Job, shown: dict[str, Any]) -> Iterator[str]:
    """One JSON object, `{"notice", "job", "results": […]}`, with a line for each slice."""
    yield f'{{"notice": {json.dumps(RESEARCH_USE_ONLY)},\n"job": {json.dumps(shown)},\n"results": [\n'
    pending: list[str] = []
    separator = ""
    for row in iter_results(job):
        pending.append(json.dumps(_result(row)))
        if len(pending) == ROWS_A_PIECE:
            yield separator + ",\n".join(pending)
            pending, separator = [], ",\n"
    if pending:
        yield separator + ",\n".join(pending)
    yield "\n]}\n"


def _result(row: ResultRow) -> dict[str, Any]:
    return {name: value for name, value in row.as_dict().items() if name in COLUMNS}
