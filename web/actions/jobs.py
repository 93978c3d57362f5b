"""Makes and deletes jobs by requests, for the API and the pages."""

from db.database import read_scope, session_scope
from db.datasets.deletion import NotDeletable
from db.datasets.job_deletion import delete_job
from db.ledger.job_view import JobView, job_view
from db.ledger.jobs import NoModelVersion, create_job
from db.models import User
from db.registry.champions import champion
from db.timing.published import publish
from db.timing.stages import Stage, timed
from web.actions.keys import idempotency_key
from web.actions.lookup import writing_job
from web.actions.uploads import receive
from web.errors import Problem, sentence
from web.security.auth import check_again, require_user


def submit(owner: User) -> tuple[JobView, bool]:
    """Receive the files of this request, and make a job of them. Return the job, and whether it is new.

    Raises what `receive` raises, IdempotencyConflict, and NoModelVersion. NoModelVersion is raised before the body is
    read. Raises Problem 401: the user lost access while the files arrived.
    """
    key = idempotency_key()
    with read_scope() as s:
        if champion(s) is None:
            raise NoModelVersion("no champion")
    with timed(Stage.RECEIVE):
        submission = receive()
    with session_scope() as s:
        check_again(s)
        job, created = create_job(
            s,
            owner=owner,
            files=submission.files,
            name=submission.name,
            priority=submission.priority,
            idempotency_key=key,
        )
        job_id = job.id
        publish(s)
    with read_scope() as s:
        return job_view(s, s.get_one(type(job), job_id)), created


def delete(job_id: str) -> None:
    """Delete an ended job. Raises Problem 404, and 409 if the job is open or a dataset is being built from it."""
    with writing_job(job_id) as (s, job):
        try:
            delete_job(s, job, require_user())
        except NotDeletable as error:
            raise Problem(409, "conflict", sentence(error), code=error.code) from error
