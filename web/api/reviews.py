"""The API of reviews: set and remove a person's label of a slice."""

from apiflask import APIBlueprint
from sqlalchemy.orm import Session

from db import LABELS
from db.datasets.reviews import NotReviewable, remove_review, reviews_of_slice, set_review
from db.ledger.results import find_row
from db.models import Job
from web.actions.lookup import writing_job
from web.api import PREFIX
from web.api.openapi import problems
from web.errors import Problem, not_found, sentence
from web.schemas.jobs import ReviewIn, ReviewList
from web.security.auth import guard_api, require_user

blueprint = APIBlueprint("api_reviews", __name__, url_prefix=f"{PREFIX}/jobs/<job_id>/slices", tag="Reviews")
guard_api(blueprint)


@blueprint.put("/<int:slice_id>/review")
@blueprint.input(ReviewIn)
@blueprint.output(ReviewList)
@blueprint.doc(responses=problems(400, 404, 409, 413, 415, 422))
def put_review(job_id: str, slice_id: int, json_data: ReviewIn) -> ReviewList:
    """Label a slice

    Replaces your earlier label. A dataset can be made of the slices that an admin or the job's owner labelled.
    """
    with writing_job(job_id) as (s, job):
        _check_slice(s, job, slice_id)
        try:
            set_review(s, slice_id, require_user(), LABELS[json_data.label])
        except NotReviewable as error:
            raise Problem(409, "conflict", sentence(error)) from error
        return _shown(s, slice_id)


@blueprint.delete("/<int:slice_id>/review")
@blueprint.output(ReviewList)
@blueprint.doc(responses=problems(400, 404))
def delete_review(job_id: str, slice_id: int) -> ReviewList:
    """Remove your label of a slice"""
    with writing_job(job_id) as (s, job):
        _check_slice(s, job, slice_id)
        remove_review(s, slice_id, require_user())
        return _shown(s, slice_id)


def _check_slice(s: Session, job: Job, slice_id: int) -> None:
    if find_row(s, job, slice_id) is None:
        raise not_found()


def _shown(s: Session, slice_id: int) -> ReviewList:
    return ReviewList(items=reviews_of_slice(s, slice_id))
