"""Serves all exports: makes cells safe for spreadsheets, cuts text into pieces, and streams the pieces."""

import io
import re
import unicodedata
from collections.abc import Iterator
from itertools import islice
from urllib.parse import quote

from flask import Response
from pydantic import BaseModel

from db import RESEARCH_USE_ONLY
from db.access.audit import Action
from db.ledger.job_view import JobView
from web.security.audit import record_export

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


def notice_of_export(job: JobView) -> str:
    """Return the notice of a job's export: that of the job and, while the job is open, what the export lacks."""
    return f"{job.notice} {_lacking(job)}".strip()


def _lacking(job: JobView) -> str:
    """Return what an export of an open job lacks, or an empty text if the job has ended."""
    if not job.is_open:
        return ""
    done = f"{job.stages.done} of {job.stages.total}{'' if job.stages.total_known else ' or more'} slices are done"
    return f"Incomplete: the job is {job.state_text}, {done}, and findings come at its end."


def download(
    pieces: Iterator[str] | Iterator[bytes], job: JobView, kind: str, content_type: str, ending: str = ""
) -> Response:
    """Return a response that streams the pieces as a file of a job.

    The file is named NAME-ID, then `ending`, then `-partial` while the job is open, then a dot and `kind`. NAME is the
    job's name in safe characters. `X-Notice` says: for research only. `X-Incomplete` says what an export of an open job
    lacks.
    """
    record_export(Action.JOB_EXPORT, f"job {job.id}", f"{(ending or '-results')[1:]}.{kind}")
    response = Response(pieces, content_type=content_type)
    end = f"-{job.id}{ending}{'-partial' if job.is_open else ''}.{kind}"
    response.headers.set("Content-Disposition", "attachment", **_file_names(job.name, end))
    response.headers["X-Notice"] = RESEARCH_USE_ONLY
    if job.is_open:
        response.headers["X-Incomplete"] = _lacking(job)
    return response


def _file_names(name: str, end: str) -> dict[str, str]:
    """Return the parameters of Content-Disposition (RFC 6266): an ASCII name and, if it differs, the whole name too."""
    decomposed = unicodedata.normalize("NFKD", name)
    whole, plain = _safe(name) + end, _safe(decomposed.encode("ascii", "ignore").decode()) + end
    return {"filename": plain} | ({} if whole == plain else {"filename*": f"UTF-8''{quote(whole, safe='')}"})


def _safe(name: str) -> str:
    kept = ""
    for c in unicodedata.normalize("NFC", name):
        is_mark = unicodedata.category(c).startswith("M") and kept[-1:].strip("-")  # such as a vowel sign
        kept += c if c.isalnum() or c in "_." or is_mark else "-"
    return re.sub("-+", "-", kept)[:NAME_IN_FILE].strip("-.") or "ctbatch"
