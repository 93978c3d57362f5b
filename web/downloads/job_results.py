"""Exports all results of a job as CSV or JSON. Works in pieces, so that memory does not grow with the job."""

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice

from db.database import read_scope
from db.datasets.reviews import ReviewView, reviews_of_slices
from db.findings.views import iter_findings
from db.ledger.completion import check_kept
from db.ledger.results import Result, ResultRow, iter_results
from db.ledger.series import iter_series
from db.models import Job
from web.downloads.pieces import ROWS_A_PIECE, drain, json_lines, safe_cell
from web.schemas.jobs import ExportRow, JobOut

RESULT = set(Result.model_fields)
NOTES = list(Result.model_fields).index("notes")


def csv_lines(job: Job, notice: str) -> Iterator[str]:
    """Yield the CSV (RFC 4180): a header, then a row for each slice in the order of `iter_results`.

    `notice` is the last column of each row, so that copied rows still have it. Most programs that read CSV would not
    accept a comment line.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*Result.model_fields, "reviews", "notice"])
    for rows in _with_reviews(job):
        for row, reviews in rows:
            values = [getattr(row, column) for column in Result.model_fields]
            values[NOTES] = "; ".join(row.notes)
            labels = "; ".join(f"{r.user}: {r.label}{' (blind)' if r.blind else ''}" for r in reviews)
            writer.writerow([*map(safe_cell, (*values, labels)), notice])
        yield drain(text)
    if text.tell():  # a job without slices: only the header
        yield drain(text)


def export_rows(job: Job) -> Iterator[ExportRow]:
    """Yield the slices of a job in the order of `iter_results`, each with the labels that people gave it."""
    return (_export_row(*row) for rows in _with_reviews(job) for row in rows)


def _export_row(row: ResultRow, reviews: list[ReviewView]) -> ExportRow:
    return ExportRow(**row.model_dump(include=RESULT), reviews=reviews)


def _with_reviews(job: Job) -> Iterator[list[tuple[ResultRow, list[ReviewView]]]]:
    """Yield the slices of a job in pieces. Each slice has the labels that people gave it, the newest label first."""
    rows = iter_results(job)
    while piece := list(islice(rows, ROWS_A_PIECE)):
        with read_scope() as s:
            reviews = reviews_of_slices(s, [row.slice_id for row in piece])
            check_kept(s, job)
        yield [(row, reviews.get(row.slice_id, [])) for row in piece]


def json_pieces(job: Job, shown: JobOut, notice: str) -> Iterator[str]:
    """Yield one JSON object, `{"notice", "job", "findings": […], "series": […], "results": […]}`.

    Each finding, series and slice is on a line.
    """
    job_json = shown.model_dump_json(by_alias=True)
    yield f'{{"notice": {json.dumps(notice)},\n"job": {job_json},\n"findings": [\n'
    yield from json_lines(iter_findings(job))
    yield '\n],\n"series": [\n'
    yield from json_lines(iter_series(job))
    yield '\n],\n"results": [\n'
    yield from json_lines(export_rows(job))
    yield "\n]}\n"
