"""The submit page. Its script posts to the API. Without scripts, the form posts here."""

from apiflask import APIBlueprint
from flask import Response, redirect, url_for
from flask.typing import ResponseReturnValue

from db.database import current, read_scope
from db.registry.champions import champion
from web.actions.jobs import submit as submit_files
from web.actions.request import takes_files
from web.actions.uploads import MAX_PARTS
from web.errors import Problem
from web.security.auth import require_user
from web.security.guards import guard_pages
from web.views.forms import form_errors, page_response

blueprint = APIBlueprint("submit", __name__, enable_openapi=False)
guard_pages(blueprint)


@blueprint.get("/submit")
def form(problem: Problem | None = None) -> Response:
    """Show the form to choose or drop files."""
    with read_scope() as s:
        model = champion(s)
    settings = current()
    limits = {
        "max_files": MAX_PARTS - 10,
        "max_bytes": settings.max_upload_bytes,
        "max_entries": settings.max_entries,
    }
    return page_response("jobs/submit.html", problem, model=model, is_admin=require_user().is_admin, **limits)


@blueprint.post("/submit")
@takes_files
@form_errors(form)
def submit() -> ResponseReturnValue:
    """Receive the files from a browser without scripts."""
    job, _ = submit_files(require_user())
    return redirect(url_for("jobs.show", job_id=job.id), 303)
