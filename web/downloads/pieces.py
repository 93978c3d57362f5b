"""What exports share: cells that are safe in a spreadsheet, pieces of text, and the answer that sends them."""

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
NAME_IN_FILE = 60  # characters of a job's name


def safe_cell(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would run (OWASP, CSV injection)."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def drain(text: io.StringIO) -> str:
    """Return what was written into a buffer, and empty it."""
    piece = text.getvalue()
    text.seek(0)
    text.truncate()
    return piece


def json_lines(rows: Iterator[BaseModel]) -> Iterator[str]:
    """Yield the members of a JSON list, a line each, in pieces."""
    separator = ""
    while piece := list(islice(rows, ROWS_A_PIECE)):
        yield separator + ",\n".join(row.model_dump_json() for row in piece)
        separator = ",\n"


def file_name(job: Job, kind: str, ending: str = "") -> str:
    """Return the name of a file about a job: its name in characters that every system takes, its id, the ending."""
    name = re.sub(r"[^\w.]+", "-", job.name)[:NAME_IN_FILE].strip("-.") or "ctbatch"
    return f"{name}-{job.id}{ending}.{kind}"


def download(pieces: Iterator[str] | Iterator[bytes], filename: str, content_type: str) -> Response:
    """Return an answer that streams its pieces as a file of this name, with the notice in a header."""
    response = Response(pieces, content_type=content_type)
    response.headers.set("Content-Disposition", "attachment", filename=filename)
    response.headers["X-Notice"] = RESEARCH_USE_ONLY
    return response
