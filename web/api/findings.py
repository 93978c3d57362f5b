"""The API of findings: the verdicts on the patients, studies and series of a job."""

from apiflask import APIBlueprint
from apiflask.schemas import FileSchema
from flask import Response

from db.findings.views import FindingsQuery, findings_page
from db.ledger.job_view import job_view
from db.ledger.tally import notice_of, tallies_of
from web.actions.lookup import reading_job
from web.actions.request import sends_files
from web.api import PREFIX
from web.api.openapi import problems
from web.api.serializers import job_json
from web.downloads import job_findings
from web.downloads.pieces import download, file_name
from web.schemas.jobs import FindingPage, FindingsOut
from web.security.auth import guard_api

blueprint = APIBlueprint("api_findings", __name__, url_prefix=f"{PREFIX}/jobs/<job_id>", tag="Findings")
guard_api(blueprint)


@blueprint.get("/findings")
@blueprint.input(FindingsQuery, location="query")
@blueprint.output(FindingPage)
@blueprint.doc(responses=problems(404, 422))
def list_findings(job_id: str, query_data: FindingsQuery) -> FindingPage:
    """List a job's findings

    Each patient is followed by its studies, and each study by its series. A job has findings once it has ended. To get
    the next page, send `next_cursor` as `cursor`, with the same filters.
    """
    with reading_job(job_id) as (s, job):
        page = findings_page(s, job, query_data)
        notice = notice_of(tallies_of(s, [job])[job.id].engines)
    return FindingPage(items=page.items, next_cursor=page.next_cursor, notice=notice)


@blueprint.get("/findings.csv")
@sends_files
@blueprint.output(FileSchema(type="string", format="binary"), content_type="text/csv", description="One row a finding.")
@blueprint.doc(responses=problems(404))
def findings_csv(job_id: str) -> Response:
    """Download all findings as CSV

    Streamed. The last column, `notice`, says that this is for research use only.
    """
    with reading_job(job_id) as (s, job):
        notice = notice_of(tallies_of(s, [job])[job.id].engines)
    return download(job_findings.csv_lines(job, notice), file_name(job, "csv", "-findings"), "text/csv; charset=utf-8")


@blueprint.get("/findings.json")
@sends_files
@blueprint.output(FindingsOut)
@blueprint.doc(responses=problems(404))
def findings_json(job_id: str) -> Response:
    """Download all findings as JSON

    Streamed: `{"notice", "job", "findings": […]}`.
    """
    with reading_job(job_id) as (s, job):
        shown = job_json(job_view(s, job))
    return download(job_findings.json_pieces(job, shown), file_name(job, "json", "-findings"), "application/json")
