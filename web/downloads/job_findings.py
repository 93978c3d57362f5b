"""Exports all findings of a job as CSV or JSON. Works in pieces, so that memory does not grow with the job."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice

from db.findings.views import FindingView, iter_findings
from db.models import Job
from web.downloads.pieces import ROWS_A_PIECE, drain, json_lines, safe_cell
from web.schemas.jobs import JobOut

MOST_UPLOADS = 20  # in a cell; a name has at most 500 characters, and a cell of Excel at most 32,767


def csv_lines(job: Job, notice: str) -> Iterator[str]:
    """Yield the CSV (RFC 4180): a header, then a row for each finding, patients first.

    The cell `uploads` names at most `MOST_UPLOADS` uploads, separated by semicolons, because spreadsheets limit the
    length of a cell. After the names, the cell says how many more uploads there are. `left_out` has the form
    `truncated: 2; little_lung: 40`. `notice` is the last column of each row.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*FindingView.model_fields, "notice"])
    for rows in _pieces(job):
        for row in rows:
            values = row.model_dump()
            values["uploads"] = _listed(row.uploads)
            values["left_out"] = "; ".join(f"{reason}: {count}" for reason, count in row.left_out.items())
            values["notes"] = " ".join(row.notes)
            writer.writerow([*map(safe_cell, values.values()), notice])
        yield drain(text)
    if text.tell():  # a job without findings: only the header
        yield drain(text)


def _listed(names: list[str]) -> str:
    more = len(names) - MOST_UPLOADS
    return "; ".join([*names[:MOST_UPLOADS], *([f"and {more} more"] if more > 0 else [])])


def json_pieces(job: Job, shown: JobOut) -> Iterator[str]:
    """Yield one JSON object, `{"notice", "job", "findings": […]}`, with each finding on a line."""
    job_json = shown.model_dump_json(by_alias=True)
    yield f'{{"notice": {json.dumps(shown.notice)},\n"job": {job_json},\n"findings": [\n'
    yield from json_lines(iter_findings(job))
    yield "\n]}\n"


def _pieces(job: Job) -> Iterator[list[FindingView]]:
    rows = iter_findings(job)
    while piece := list(islice(rows, ROWS_A_PIECE)):
        yield piece
