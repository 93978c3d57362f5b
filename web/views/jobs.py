"""The pages of jobs: the list, and a job's page with its live part, results, slices, and buttons that change it."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from db.database import read_scope
from db.datasets.deletion import days_until_files_are_gone
from db.ledger.job_view import job_view, list_jobs
from db.ledger.jobs import cancel_job, retry_job
from db.ledger.results import ResultRow, ResultsQuery, results_page
from db.models import Job, Outcome
from web.actions import jobs
from web.actions.lookup import reading_job, writing_job
from web.schemas.jobs import JobListQuery
from web.security.auth import require_user
from web.security.guards import guard_pages
from web.views.findings.part import PartQuery, findings_part
from web.views.forms import flash_deleted, page_response, parsed
from web.views.results import Switches, asked, kept, results_part, slice_part, switches_blind

blueprint = APIBlueprint("jobs", __name__, enable_openapi=False)
guard_pages(blueprint)

REJECTED_SHOWN = 12


@blueprint.get("/")
def home() -> ResponseReturnValue:
    """Redirect to the first page, the list of jobs."""
    return redirect(url_for("jobs.index"), 303)


@blueprint.get("/jobs")
def index() -> str:
    """List the user's jobs, newest first."""
    query = parsed(JobListQuery, request.args)
    with read_scope() as s:
        user = require_user()
        page = list_jobs(s, user, state=query.state, cursor=query.cursor, limit=query.limit, counted=True)
    return render_template("jobs/jobs.html", page=page, query=query)


@blueprint.get("/jobs/<job_id>/row")
def row(job_id: str) -> str:
    """Return one row of the list. While the job is open, the row reloads itself."""
    with reading_job(job_id) as (s, job):
        return render_template("jobs/_job_row.html", job=job_view(s, job))


@blueprint.get("/jobs/<job_id>")
def show(job_id: str) -> str:
    """Show a job."""
    with reading_job(job_id) as (s, job):
        parts = _live(s, job) | results_part(s, job, asked()) | _findings(s, job)
        return render_template("jobs/job.html", **parts)


@blueprint.get("/jobs/<job_id>/live")
def live(job_id: str) -> str:
    """Return the part of a job's page that changes while it runs."""
    with reading_job(job_id) as (s, job):
        return render_template("jobs/_live.html", **_live(s, job))


@blueprint.get("/jobs/<job_id>/results")
def results(job_id: str) -> Response:
    """Return the results part of a job's page. The address bar then shows the filters, the order and the page.

    If blind review was switched on or off, load the whole page anew, because the switch affects all parts of the page.
    """
    query = asked()
    if switches_blind():
        address = url_for("jobs.show", job_id=job_id, _anchor="results", **kept(query))
        return Response(headers={"HX-Redirect": address})
    with reading_job(job_id) as (s, job):
        shown = results_part(s, job, query)
        response = page_response("jobs/_results.html", job=job_view(s, job), **shown)
    if "poll" not in request.args:
        response.headers["HX-Push-Url"] = url_for("jobs.show", job_id=job_id, cursor=query.cursor, **shown["kept"])
    return response


@blueprint.get("/jobs/<job_id>/findings")
def findings(job_id: str) -> str:
    """Return a page of the findings of a job, or of its series while it runs."""
    with reading_job(job_id) as (s, job):
        shown = _findings(s, job) | {"job": job_view(s, job), "blind": Switches.of_request().blind}
        parts = ("jobs/_findings_list.html", "jobs/_findings_title.html")  # the title changes when the job ends
        return "".join(render_template(part, **shown, polled=True) for part in parts)


@blueprint.get("/jobs/<job_id>/slices/<int:slice_id>")
def slice_(job_id: str, slice_id: int) -> str:
    """Show a large slice with its heat map, as a page or as the content of the job page's dialog."""
    template = "jobs/_slice.html" if request.headers.get("HX-Request") else "jobs/slice.html"
    with reading_job(job_id) as (s, job):
        return render_template(template, **slice_part(s, job, slice_id, asked()))


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> ResponseReturnValue:
    """Cancel a job."""
    with writing_job(job_id) as (s, job):
        cancel_job(s, job)
    return redirect(url_for("jobs.show", job_id=job_id, blind=request.args.get("blind")), 303)


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> ResponseReturnValue:
    """Retry the failed slices and files of a job."""
    with writing_job(job_id) as (s, job):
        retry_job(s, job)
    return redirect(url_for("jobs.show", job_id=job_id, blind=request.args.get("blind")), 303)


@blueprint.post("/jobs/<job_id>/delete")
def delete(job_id: str) -> ResponseReturnValue:
    """Delete an ended job, and return to the list."""
    jobs.delete(job_id)
    flash_deleted("job")
    return redirect(url_for("jobs.index"), 303)


def _findings(s: Session, job: Job) -> dict[str, Any]:
    return findings_part(s, job, parsed(PartQuery, request.args))


def _live(s: Session, job: Job) -> dict[str, Any]:
    view = job_view(s, job)
    rejected = _rejected(s, job) if view.counts.rejected + view.counts.quarantined else []
    switches = {"blind": Switches.of_request().blind, "days_until_gone": days_until_files_are_gone()}
    return {"job": view, "rejected": rejected, **switches}


def _rejected(s: Session, job: Job) -> list[ResultRow]:
    rows: list[ResultRow] = []
    for state in (Outcome.REJECTED, Outcome.QUARANTINED):
        missing = REJECTED_SHOWN - len(rows)
        rows += results_page(s, job, ResultsQuery(state=state, limit=missing)).items if missing else []
    return rows
