"""Serves all exports: makes cells safe for spreadsheets, cuts text into pieces, and streams the pieces."""

import io
import re
from collections.abc import Iterator
from itertools import islice

from flask import Response
from pydantic import BaseModel

from db import RESEARCH_USE_ONLY
from db.models import Job

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
ROWS_A_PIECE = 200
NAME_IN_FILE = 60  # the most characters of a job's name


def safe_cell(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would run as a formula (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def drain(text: io.StringIO) -> str:
    """Return the text in a buffer, and empty the buffer."""
    piece = text.getvalue()
    text.seek(0)
    text.truncate()
    return piece


def json_lines(rows: Iterator[BaseModel]) -> Iterator[str]:
    """Yield the members of a JSON list in pieces of many lines. Each member is on a line."""
    separator = ""
    while piece := list(islice(rows, ROWS_A_PIECE)):
        yield separator + ",\n".join(row.model_dump_json() for row in piece)
        separator = ",\n"


def file_name(job: Job, kind: str, ending: str = "") -> str:
    """Return the file name of a job's export: NAME-ID, then `ending`, then a dot and `kind`.

    NAME is the job's name in safe characters.
    """
    name = re.sub(r"[^\w.]+", "-", job.name)[:NAME_IN_FILE].strip("-.") or "ctbatch"
    return f"{name}-{job.id}{ending}.{kind}"


def download(pieces: Iterator[str] | Iterator[bytes], filename: str, content_type: str) -> Response:
    """Return a response that streams the pieces as a file of this name. `X-Notice` says: for research only."""
    response = Response(pieces, content_type=content_type)
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    response.headers["X-Notice"] = RESEARCH_USE_ONLY
    return response
