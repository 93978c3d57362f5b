"""The submit page. Its script posts to the API; without scripts the form posts here."""

from apiflask import APIBlueprint
from flask import Response, redirect, render_template, url_for
from flask.typing import ResponseReturnValue

from db.database import current, read_scope
from db.registry.champions import champion
from web.actions.jobs import submit as submit_files
from web.actions.request import takes_files
from web.actions.uploads import MAX_PARTS
from web.errors import Problem, as_problem
from web.security.auth import require_user
from web.security.guards import guard_pages

blueprint = APIBlueprint("submit", __name__, enable_openapi=False)
guard_pages(blueprint)


@blueprint.get("/submit")
def form() -> Response:
    """Choose or drop files."""
    return _form(None)


@blueprint.post("/submit")
@takes_files
def submit() -> ResponseReturnValue:
    """Receive the files of a browser that runs no scripts."""
    try:
        job, _ = submit_files(require_user())
    except Exception as error:
        problem = as_problem(error)
        if problem.status == 500:
            raise
        return _form(problem)
    return redirect(url_for("jobs.show", job_id=job.id), 303)


def _form(problem: Problem | None) -> Response:
    with read_scope() as s:
        model = champion(s)
    page = render_template(
        "jobs/submit.html", problem=problem, model=model, max_files=MAX_PARTS - 10, max_bytes=current().max_upload_bytes
    )
    status = 200 if problem is None else problem.status
    return Response(page, status, content_type="text/html; charset=utf-8")
