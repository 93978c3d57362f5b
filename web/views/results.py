"""The results and the slices on a job's page, the addresses that show them, and the labels of readers."""

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from apiflask import APIBlueprint
from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from db import LABELS
from db.datasets.reviews import NotReviewable, remove_review, reviews_of_slice, reviews_of_slices, set_review
from db.ledger.job_view import job_view
from db.ledger.places import page_place, slice_place
from db.ledger.results import ResultsQuery, find_row, results_page
from db.ledger.series import series_label
from db.models import Job
from db.series.geometry import is_placed
from web.actions.lookup import writing_job
from web.errors import Problem, not_found, sentence
from web.security.auth import require_user
from web.security.guards import guard_pages
from web.views.forms import parsed

blueprint = APIBlueprint("reviews", __name__, enable_openapi=False)
guard_pages(blueprint)

PAGE_ROWS = 50
FILTERS = ("state", "label", "reason", "series", "ood", "reviewed")


@dataclass(frozen=True)
class Switches:
    """The switches of a reader: heat maps in the list, and blind review."""

    heat: bool
    blind: bool

    @classmethod
    def of_request(cls) -> "Switches":
        """Return the switches of this request's address."""
        return cls(heat=request.args.get("heat") == "1", blind=request.args.get("blind") == "1")


def switches_blind() -> bool:
    """Return whether this request changes the blind review of the page that sent it."""
    shown = parse_qs(urlsplit(request.headers.get("HX-Current-URL", request.url)).query)
    return Switches.of_request().blind != ("1" in shown.get("blind", ()))


def asked() -> ResultsQuery:
    """Return the query for results in this request's address, with the page size of the web pages.

    In a blind review, leave out the filters and the orders that would show the model's answers.
    """
    query = parsed(ResultsQuery, request.args).model_copy(update={"limit": PAGE_ROWS})
    if not Switches.of_request().blind:
        return query
    tells = query.sort in ("probability", "-probability")
    order = {"sort": _default_sort(query), "cursor": None} if tells else {}
    return query.model_copy(update={"label": None, "ood": None} | order)


def _default_sort(query: ResultsQuery) -> str:
    return ResultsQuery.model_validate({"series": query.series}).sort


def kept(query: ResultsQuery) -> dict[str, Any]:
    """Return the parameters of an address that shows the first page of these results."""
    values = query.model_dump(mode="json", exclude={"limit", "cursor", "sort"}, exclude_defaults=True)
    if query.sort != _default_sort(query):  # a default must not stay when the filter by series changes
        values["sort"] = query.sort
    values |= {name: int(value) for name, value in values.items() if isinstance(value, bool)}
    return values | {name: 1 for name, on in asdict(Switches.of_request()).items() if on}


def results_part(s: Session, job: Job, query: ResultsQuery) -> dict[str, Any]:
    """Return the values for the results part of a job's page."""
    reader, switches = require_user(), Switches.of_request()
    page = results_page(s, job, query, reader)
    if query.cursor is not None and not page.items:  # the reader has labelled the last slices that the filter showed
        query = query.model_copy(update={"cursor": None})
        page = results_page(s, job, query, reader)
    address, own = kept(query), _own_labels(s, [row.slice_id for row in page.items])
    return {
        "page": page,
        "place": page_place(s, job, query, page.items, reader),
        "query": query,
        "kept": address,
        "unfiltered": {name: value for name, value in address.items() if name not in FILTERS},
        "series_label": None if query.series is None else series_label(s, job, query.series),
        "own_labels": own,
        **asdict(switches),
    }


def slice_part(s: Session, job: Job, slice_id: int, query: ResultsQuery) -> dict[str, Any]:
    """Return the values for one slice, with its neighbours among the results. Raises Problem 404."""
    row = find_row(s, job, slice_id)
    if row is None:
        raise not_found()
    return {
        "job": job_view(s, job),
        "row": row,
        "is_placed": row.position is not None and is_placed(s, slice_id),
        "reviews": reviews_of_slice(s, slice_id),
        "place": slice_place(s, job, slice_id, query, require_user()),
        "kept": kept(query),
        "hidden": Switches.of_request().blind and row.has_image and not _own_labels(s, [slice_id]),
        "in_dialog": "HX-Request" in request.headers and "/slices/" not in request.headers.get("HX-Current-URL", ""),
    }


def _own_labels(s: Session, slice_ids: list[int]) -> dict[int, str]:
    """Return the labels that the user of this request gave to these slices, by slice id."""
    name = require_user().name
    reviews = reviews_of_slices(s, slice_ids)
    return {slice_id: review.label for slice_id in reviews for review in reviews[slice_id] if review.user == name}


@blueprint.post("/jobs/<job_id>/slices/<int:slice_id>/review")
def review(job_id: str, slice_id: int) -> ResponseReturnValue:
    """Set the reader's label of a slice, or remove it if `label` is empty. Then show the slice again."""
    label = request.form.get("label", "")
    if label not in (*LABELS, ""):
        raise Problem(422, "invalid", "There is no such label. Choose COVID or non-COVID.")
    with writing_job(job_id) as (s, job):
        if find_row(s, job, slice_id) is None:
            raise not_found()
        if not label:
            remove_review(s, slice_id, require_user())
        else:
            try:
                set_review(s, slice_id, require_user(), LABELS[label], blind=Switches.of_request().blind)
            except NotReviewable as error:
                raise Problem(409, "conflict", sentence(error)) from error
        query = asked()
        if request.headers.get("HX-Request"):
            return render_template("jobs/_slice.html", **slice_part(s, job, slice_id, query))
    return redirect(url_for("jobs.slice_", job_id=job_id, slice_id=slice_id, **kept(query)), 303)
