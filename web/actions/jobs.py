"""Making jobs from requests, for the API and the submit page."""

import re

from flask import request

from db.database import read_scope, session_scope
from db.ledger.job_view import JobView, job_view
from db.ledger.jobs import NoModelVersion, create_job
from db.models import User
from db.registry.champions import champion
from web.actions.uploads import receive
from web.errors import Problem

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def submit(owner: User) -> tuple[JobView, bool]:
    """Receive this request's files and make a job of them. Return the job, and whether it is new.

    Raises what `receive` raises, IdempotencyConflict, and NoModelVersion. The last is raised before the body is read.
    """
    key = idempotency_key()
    with read_scope() as s:
        if champion(s) is None:
            raise NoModelVersion("no champion")
    submission = receive()
    with session_scope() as s:
        job, created = create_job(
            s,
            owner=owner,
            files=submission.files,
            name=submission.name,
            priority=submission.priority,
            idempotency_key=key,
        )
        job_id = job.id
    with read_scope() as s:
        return job_view(s, s.get_one(type(job), job_id)), created


def idempotency_key() -> str | None:
    """Return the `Idempotency-Key` header: 1 to 255 visible ASCII characters. Raises Problem 400."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise Problem(400, "bad-request", "The Idempotency-Key is not valid. Use 1 to 255 visible ASCII characters.")
    return key
