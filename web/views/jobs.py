"""The jobs list, and a job's page with its live part, results, slices, and cancel and retry buttons."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from db.database import read_scope
from db.datasets.reviews import reviews_of_slice
from db.ledger.job_view import job_view, list_jobs
from db.ledger.jobs import cancel_job, retry_job
from db.ledger.results import ResultRow, ResultsQuery, find_row, results_page, series_summary
from db.models import Job, Outcome
from web.actions.lookup import reading_job, writing_job
from web.errors import not_found
from web.schemas.jobs import JobListQuery
from web.security.auth import require_user
from web.security.guards import guard_pages
from web.views.forms import page_response, parsed

blueprint = APIBlueprint("jobs", __name__, enable_openapi=False)
guard_pages(blueprint)

PAGE_ROWS = 50
REJECTED_SHOWN = 12


@blueprint.get("/")
def home() -> ResponseReturnValue:
    """Go on to the jobs list, the first page."""
    return redirect(url_for("jobs.index"), 303)


@blueprint.get("/jobs")
def index() -> str:
    """List the user's jobs, newest first."""
    query = parsed(JobListQuery, request.args)
    with read_scope() as s:
        page = list_jobs(s, require_user(), state=query.state, cursor=query.cursor, limit=query.limit)
    return render_template("jobs/jobs.html", page=page, query=query)


@blueprint.get("/jobs/<job_id>/row")
def row(job_id: str) -> str:
    """Return one row of the list. A row whose job is open asks for itself again."""
    with reading_job(job_id) as (s, job):
        return render_template("jobs/_job_row.html", job=job_view(s, job))


@blueprint.get("/jobs/<job_id>")
def show(job_id: str) -> str:
    """Show a job."""
    query = parsed(ResultsQuery, request.args)
    with reading_job(job_id) as (s, job):
        return render_template("jobs/job.html", **_live(s, job), **_results(s, job, query))


@blueprint.get("/jobs/<job_id>/live")
def live(job_id: str) -> str:
    """Return the part of a job's page that changes while it runs."""
    with reading_job(job_id) as (s, job):
        return render_template("jobs/_live.html", **_live(s, job))


@blueprint.get("/jobs/<job_id>/results")
def results(job_id: str) -> Response:
    """Return the results part of a job's page. The address bar follows filters, order and page."""
    query = parsed(ResultsQuery, request.args)
    with reading_job(job_id) as (s, job):
        shown = _results(s, job, query)
        response = page_response("jobs/_results.html", job=job_view(s, job), **shown)
    if "poll" not in request.args:
        response.headers["HX-Push-Url"] = url_for("jobs.show", job_id=job_id, **shown["kept"])
    return response


@blueprint.get("/jobs/<job_id>/slices/<int:slice_id>")
def slice_(job_id: str, slice_id: int) -> str:
    """Show one slice large, with its heat map: as a page, or as the inside of the job page's dialog."""
    template = "jobs/_slice.html" if request.headers.get("HX-Request") else "jobs/slice.html"
    with reading_job(job_id) as (s, job):
        row = find_row(s, job, slice_id)
        if row is None:
            raise not_found()
        return render_template(template, job=job_view(s, job), row=row, reviews=reviews_of_slice(s, slice_id))


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> ResponseReturnValue:
    """Ask a job to stop."""
    with writing_job(job_id) as (s, job):
        cancel_job(s, job)
    return redirect(url_for("jobs.show", job_id=job_id), 303)


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> ResponseReturnValue:
    """Put back what failed."""
    with writing_job(job_id) as (s, job):
        retry_job(s, job)
    return redirect(url_for("jobs.show", job_id=job_id), 303)


def _live(s: Session, job: Job) -> dict[str, Any]:
    view = job_view(s, job)
    rejected = _rejected(s, job) if view.counts.rejected + view.counts.quarantined else []
    return {"job": view, "series": series_summary(s, job), "rejected": rejected}


def _rejected(s: Session, job: Job) -> list[ResultRow]:
    rows: list[ResultRow] = []
    for state in (Outcome.REJECTED, Outcome.QUARANTINED):
        missing = REJECTED_SHOWN - len(rows)
        rows += results_page(s, job, ResultsQuery(state=state, limit=missing)).items if missing else []
    return rows


def _results(s: Session, job: Job, query: ResultsQuery) -> dict[str, Any]:
    page = results_page(s, job, query.model_copy(update={"limit": PAGE_ROWS}))
    kept = query.model_dump(mode="json", exclude={"limit"}, exclude_defaults=True)
    if query.ood is not None:
        kept["ood"] = int(query.ood)
    if request.args.get("heat") == "1":
        kept["heat"] = "1"
    return {
        "page": page,
        "query": query,
        "kept": kept,
        "kept_first": {name: value for name, value in kept.items() if name != "cursor"},
        "heat": "heat" in kept,
        "all_series": series_summary(s, job),
    }
