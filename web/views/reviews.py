"""The buttons that set and remove a reader's label of a slice."""

from apiflask import APIBlueprint
from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from db import LABELS
from db.datasets.reviews import NotReviewable, remove_review, reviews_of_slice, set_review
from db.ledger.job_view import job_view
from db.ledger.results import find_row
from web.actions.lookup import writing_job
from web.errors import Problem, not_found, sentence
from web.security.auth import require_user
from web.security.guards import guard_pages

blueprint = APIBlueprint("reviews", __name__, enable_openapi=False)
guard_pages(blueprint)


@blueprint.post("/jobs/<job_id>/slices/<int:slice_id>/review")
def review(job_id: str, slice_id: int) -> ResponseReturnValue:
    """Set the reader's label of a slice, or remove it if `label` is empty; show the labels."""
    label = request.form.get("label", "")
    if label not in (*LABELS, ""):
        raise Problem(422, "invalid", "There is no such label. Choose COVID or non-COVID.")
    with writing_job(job_id) as (s, job):
        row = find_row(s, job, slice_id)
        if row is None:
            raise not_found()
        if not label:
            remove_review(s, slice_id, require_user())
        else:
            try:
                set_review(s, slice_id, require_user(), LABELS[label])
            except NotReviewable as error:
                raise Problem(409, "conflict", sentence(error)) from error
        shown = {"job": job_view(s, job), "row": row, "reviews": reviews_of_slice(s, slice_id)}
    if request.headers.get("HX-Request"):
        return render_template("jobs/_reviews.html", **shown)
    return redirect(url_for("jobs.slice_", job_id=job_id, slice_id=slice_id), 303)
