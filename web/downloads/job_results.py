"""All results of a job as CSV and as JSON, in pieces, so that memory does not grow with the job."""

import csv
import io
import json
from collections.abc import Iterator

from db import RESEARCH_USE_ONLY
from db.ledger.results import Result, iter_results
from db.models import Job
from web.schemas.jobs import JobOut

RESULT = set(Result.model_fields)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
ROWS_A_PIECE = 200


def safe_cell(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would run (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def csv_lines(job: Job) -> Iterator[str]:
    """Yield the CSV (RFC 4180): a header, then a row for each slice in the order of the submission.

    The notice is the last column of each row, so that it stays when rows are copied out. A comment line would break
    most readers of CSV.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*Result.model_fields, "notice"])
    for number, row in enumerate(iter_results(job), start=1):
        values = [safe_cell(getattr(row, column)) for column in Result.model_fields]
        writer.writerow([*values, RESEARCH_USE_ONLY])
        if number % ROWS_A_PIECE == 0:
            yield _drain(text)
    yield _drain(text)


def _drain(text: io.StringIO) -> str:
    piece = text.getvalue()
    text.seek(0)
    text.truncate()
    return piece


def json_pieces(job: Job, shown: JobOut) -> Iterator[str]:
    """Yield one JSON object, `{"notice", "job", "results": […]}`, with a line for each slice."""
    job_json = shown.model_dump_json(by_alias=True)
    yield f'{{"notice": {json.dumps(RESEARCH_USE_ONLY)},\n"job": {job_json},\n"results": [\n'
    pending: list[str] = []
    separator = ""
    for row in iter_results(job):
        pending.append(row.model_dump_json(include=RESULT))
        if len(pending) == ROWS_A_PIECE:
            yield separator + ",\n".join(pending)
            pending, separator = [], ",\n"
    if pending:
        yield separator + ",\n".join(pending)
    yield "\n]}\n"
