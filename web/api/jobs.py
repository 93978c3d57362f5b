"""The API of jobs: submit, list, show, cancel, retry and delete them."""

from apiflask import APIBlueprint
from flask import url_for

from db.database import read_scope
from db.ledger.job_view import job_view, list_jobs
from db.ledger.jobs import cancel_job, retry_job
from db.models import Job
from web.actions.jobs import delete, submit
from web.actions.lookup import reading_job, writing_job
from web.actions.request import takes_files
from web.api import PREFIX
from web.api.etags import revalidate
from web.api.openapi import IDEMPOTENCY_HEADER, NOT_MODIFIED, SUBMIT_BODY, problems
from web.api.serializers import job_json
from web.errors import Problem
from web.schemas.jobs import JobListQuery, JobOut, JobPage, RetryOut
from web.security.auth import guard_api, require_user

blueprint = APIBlueprint("api_jobs", __name__, url_prefix=f"{PREFIX}/jobs", tag="Jobs")
guard_api(blueprint)
revalidate(blueprint)


@blueprint.post("")
@takes_files
@blueprint.output(JobOut, status_code=202, description="Queued. `Location` is the job.")
@blueprint.doc(
    responses={200: "The job that this `Idempotency-Key` made before."} | problems(400, 413, 415, 422, 503, 507),
    extensions={"x-request-body": SUBMIT_BODY, "x-parameters": [IDEMPOTENCY_HEADER]},
)
def submit_job() -> tuple[JobOut, int, dict[str, str]]:
    """Submit files

    Send archives (ZIP, TAR, TAR.GZ, TAR.BZ2, TAR.XZ) and loose images, in any mixture, in parts named `files`. If one
    archive is refused, the whole submission is refused. With an `Idempotency-Key`, a repeated request gives the same
    job. If an answer got lost, `GET /jobs?idempotency_key=…` finds the job without sending the files again.
    """
    view, created = submit(require_user())
    location = url_for("api_jobs.show_job", job_id=view.id)
    return job_json(view), 202 if created else 200, {"Location": location}


@blueprint.get("")
@blueprint.input(JobListQuery, location="query")
@blueprint.output(JobPage)
@blueprint.doc(responses=problems(422))
def list_all(query_data: JobListQuery) -> JobPage:
    """List jobs

    Lists your own jobs, newest first. An admin sees the jobs of all users.
    """
    state, key, cursor = query_data.state, query_data.idempotency_key, query_data.cursor
    with read_scope() as s:
        page = list_jobs(s, require_user(), state=state, key=key, cursor=cursor, limit=query_data.limit)
    return JobPage(items=[job_json(view) for view in page.items], next_cursor=page.next_cursor)


@blueprint.get("/<job_id>")
@blueprint.output(JobOut)
@blueprint.doc(responses=NOT_MODIFIED | problems(404))
def show_job(job_id: str) -> JobOut:
    """Show a job

    The answer has an `ETag`. Poll with `If-None-Match`.
    """
    with reading_job(job_id) as (s, job):
        return job_json(job_view(s, job))


@blueprint.delete("/<job_id>")
@blueprint.output({}, status_code=204, description="Deleted.")
@blueprint.doc(responses=problems(400, 404, 409))
def delete_job(job_id: str) -> tuple[str, int]:
    """Delete an ended job

    Deletes its results, findings and labels at once, and its files days later. Files that another job or a dataset uses
    stay. If the job has not ended, the answer is 409 with the `code` `job_open`: cancel the job first. If a dataset is
    being built from the job, the answer is 409 with the `code` `dataset_building`.
    """
    delete(job_id)
    return "", 204


@blueprint.post("/<job_id>/cancel")
@blueprint.output(JobOut, status_code=202, description="The job stops within one chunk.")
@blueprint.doc(responses=problems(400, 404, 409))
def cancel(job_id: str) -> JobOut:
    """Cancel a job"""
    with writing_job(job_id) as (s, job):
        if not cancel_job(s, job):
            raise Problem(409, "conflict", "The job has already ended. Only an open job can be cancelled.")
    return _shown(job_id)


@blueprint.post("/<job_id>/retry")
@blueprint.output(RetryOut, status_code=202, description="The failed slices and files are queued again.")
@blueprint.doc(responses=problems(400, 404, 409))
def retry(job_id: str) -> RetryOut:
    """Retry what failed in a job

    Queues quarantined slices, cancelled slices and failed uploads again. Also queues files again that were rejected as
    `decoder_budget`. If the job has no `decoder_budget` files, queues files again that were rejected as
    `decoder_crash` or `decoder_timeout`.
    """
    with writing_job(job_id) as (s, job):
        if job.finished_at is None:
            raise Problem(409, "conflict", "The job has not ended yet. Wait until it has ended, or cancel it.")
        retried = retry_job(s, job)
    return RetryOut(retried=retried, job=_shown(job_id))


def _shown(job_id: str) -> JobOut:
    with read_scope() as s:
        return job_json(job_view(s, s.get_one(Job, job_id)))
