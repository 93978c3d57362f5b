"""Finds the rows that an address names. Answers 404 if a row does not exist, or is not the user's."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from flask import request
from sqlalchemy.orm import Session

from db import MAX_INTEGER
from db.database import read_scope, session_scope
from db.ledger.jobs import may_see
from db.models import Job
from web.errors import not_found
from web.security.audit import note_look, note_refusal
from web.security.auth import SAFE_METHODS, require_user

T = TypeVar("T")

ROW_IDS = range(1, 2**63)
"""Ids of slices that a database can hold. A larger number in an address is not found."""

SMALL_IDS = range(1, MAX_INTEGER + 1)
"""Ids of all other tables. PostgreSQL refuses to look for a larger id."""

ROW_OF_LIST = "jobs.row"
"""The endpoint of a row of the list of jobs. The list does not open its jobs."""

_JOB_ID = re.compile(r"[a-z2-7]{16}")  # base32 of 10 bytes


def own_job(s: Session, job_id: str) -> Job:
    """Return the job if this request's user may see it. Raises Problem 404."""
    user = require_user()
    known = s.get(Job, job_id) if _JOB_ID.fullmatch(job_id) else None
    if known is None:
        raise not_found()
    if not may_see(known, user):
        note_refusal(f"job {known.id}")
        raise not_found()
    if known.deleted_at is not None:
        raise not_found()
    if request.method in SAFE_METHODS and request.endpoint != ROW_OF_LIST:
        note_look(f"job {known.id}")
    return known


def row_of(s: Session, model: type[T], row_id: int) -> T:
    """Return a row that is not deleted. All users of this address may see all rows of the table. Raises Problem 404."""
    table: Any = model
    row: T | None = s.get(table, row_id) if row_id in SMALL_IDS else None
    if row is None or getattr(row, "deleted_at", None) is not None:
        raise not_found()
    return row


@contextmanager
def reading_job(job_id: str) -> Iterator[tuple[Session, Job]]:
    """Open a short transaction for reading, and yield it with the job. Raises Problem 404."""
    with read_scope() as s:
        yield s, own_job(s, job_id)


@contextmanager
def writing_job(job_id: str) -> Iterator[tuple[Session, Job]]:
    """Open a short transaction for writing, and yield it with the job. Raises Problem 404."""
    with session_scope() as s:
        yield s, own_job(s, job_id)
