"""The API of findings: the verdicts on the patients, studies and series of a job."""

from collections.abc import Iterator
from contextlib import contextmanager

from apiflask import APIBlueprint
from apiflask.schemas import FileSchema
from flask import Response
from sqlalchemy.orm import Session

from db.findings.views import FindingsQuery, findings_page
from db.ledger.job_view import job_view
from db.ledger.tally import notice_of, tallies_of
from db.models import OPEN_JOB, Job
from web.actions.lookup import reading_job
from web.actions.request import sends_files
from web.api import PREFIX
from web.api.openapi import problems
from web.api.serializers import job_json
from web.downloads import job_findings
from web.downloads.pieces import download
from web.errors import Problem
from web.schemas.jobs import FindingPage, FindingsOut
from web.security.auth import guard_api

blueprint = APIBlueprint("api_findings", __name__, url_prefix=f"{PREFIX}/jobs/<job_id>", tag="Findings")
guard_api(blueprint)


@blueprint.get("/findings")
@blueprint.input(FindingsQuery, location="query")
@blueprint.output(FindingPage)
@blueprint.doc(responses=problems(404, 409, 422))
def list_findings(job_id: str, query_data: FindingsQuery) -> FindingPage:
    """List a job's findings

    Each patient is followed by its studies, and each study by its series. A job has findings once it has ended. Before
    that, the answer is a problem 409 with the type `not-ended`. To get the next page, send `next_cursor` as `cursor`,
    with the same filters.
    """
    with _reading_ended_job(job_id) as (s, job):
        page = findings_page(s, job, query_data)
        notice = notice_of(job.model_version, tallies_of(s, [job])[job.id].engines)
    return FindingPage(items=page.items, next_cursor=page.next_cursor, notice=notice)


@blueprint.get("/findings.csv")
@sends_files
@blueprint.output(FileSchema(), content_type="text/csv", description="A row for each finding.")
@blueprint.doc(responses=problems(404, 409))
def findings_csv(job_id: str) -> Response:
    """Download all findings as CSV

    Streamed. The last column, `notice`, says that this is for research use only. Until the job has ended, the answer
    is a problem 409 with the type `not-ended`.
    """
    with _reading_ended_job(job_id) as (s, job):
        view = job_view(s, job)
    lines = job_findings.csv_lines(job, view.notice)
    return download(lines, view, "csv", "text/csv; charset=utf-8", "-findings")


@blueprint.get("/findings.json")
@sends_files
@blueprint.output(FindingsOut)
@blueprint.doc(responses=problems(404, 409))
def findings_json(job_id: str) -> Response:
    """Download all findings as JSON

    Streamed: `{"notice", "job", "findings": […]}`. Until the job has ended, the answer is a problem 409 with the type
    `not-ended`.
    """
    with _reading_ended_job(job_id) as (s, job):
        view = job_view(s, job)
    return download(job_findings.json_pieces(job, job_json(view)), view, "json", "application/json", "-findings")


@contextmanager
def _reading_ended_job(job_id: str) -> Iterator[tuple[Session, Job]]:
    """Yield a transaction for reading and the job. Raises Problem 404, and 409 if the job has not ended."""
    with reading_job(job_id) as (s, job):
        if job.state in OPEN_JOB:
            detail = f"The job is {job.state}, and its findings come when it has ended. Wait until it has ended."
            raise Problem(409, "not-ended", detail)
        yield s, job
