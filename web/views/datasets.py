"""The pages of datasets: the list, the form that makes one, and a page with a report and splits. For admins."""

from apiflask import APIBlueprint
from flask import Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from db.database import current, read_scope
from db.datasets.datasets import dataset_view
from db.datasets.deletion import days_until_files_are_gone
from db.models import Dataset
from db.paging import newest_first
from db.training.split_view import splits_of
from web.actions import datasets
from web.actions.lookup import row_of
from web.actions.request import takes_files
from web.actions.uploads import MAX_PARTS
from web.errors import Problem
from web.schemas.common import ListQuery
from web.schemas.datasets import SplitIn
from web.security.auth import require_admin
from web.security.guards import guard_admin_pages
from web.views.forms import flash_deleted, form_errors, form_values, page_response, parsed

blueprint = APIBlueprint("datasets", __name__, url_prefix="/datasets", enable_openapi=False)
guard_admin_pages(blueprint)


@blueprint.get("")
def index() -> str:
    """List all datasets, newest first."""
    query = parsed(ListQuery, request.args)
    with read_scope() as s:
        page = newest_first(s, Dataset, query.cursor, query.limit)
        views = [dataset_view(s, dataset) for dataset in page.items]
    return render_template("datasets/datasets.html", views=views, page=page)


@blueprint.get("/<int:dataset_id>/row")
def row(dataset_id: int) -> str:
    """Return one row of the list. While the dataset is being built, the row reloads itself."""
    with read_scope() as s:
        return render_template("datasets/_dataset_row.html", dataset=dataset_view(s, row_of(s, Dataset, dataset_id)))


@blueprint.get("/new")
def form(problem: Problem | None = None) -> Response:
    """Show the form to choose files, or jobs whose reviewed slices become the dataset."""
    typed = request.form if problem else {}
    return page_response(
        "datasets/dataset_new.html",
        problem,
        name=typed.get("name", ""),
        jobs=typed.get("jobs") or request.args.get("jobs", ""),
        groups=typed.get("groups", ""),
        max_files=MAX_PARTS - 10,
        max_bytes=current().max_upload_bytes,
    )


@blueprint.post("/new")
@takes_files
@form_errors(form)
def create() -> ResponseReturnValue:
    """Receive the files, and make the dataset."""
    view, _ = datasets.create(require_admin())
    return redirect(url_for("datasets.show", dataset_id=view.id), 303)


@blueprint.get("/<int:dataset_id>")
def show(dataset_id: int) -> str:
    """Show a dataset."""
    return _page("datasets/dataset.html", dataset_id)


@blueprint.get("/<int:dataset_id>/live")
def live(dataset_id: int) -> str:
    """Return the part of a dataset's page that changes while it is built."""
    return _page("datasets/_dataset.html", dataset_id)


@blueprint.post("/<int:dataset_id>/splits")
def split(dataset_id: int) -> ResponseReturnValue:
    """Split a dataset, to show the parts and the leaks before anything is trained."""
    options = form_values(SplitIn, request.form)
    datasets.split(dataset_id, options)
    return redirect(url_for("datasets.show", dataset_id=dataset_id, _anchor="splits"), 303)


@blueprint.post("/<int:dataset_id>/delete")
def delete(dataset_id: int) -> ResponseReturnValue:
    """Delete a dataset, and return to the list."""
    datasets.delete(dataset_id)
    flash_deleted("dataset")
    return redirect(url_for("datasets.index"), 303)


def _page(template: str, dataset_id: int) -> str:
    with read_scope() as s:
        dataset = row_of(s, Dataset, dataset_id)
        sources = [source.get("filename") or f"job {source.get('job')}" for source in dataset.sources]
        view, splits = dataset_view(s, dataset), splits_of(s, dataset)
    days = days_until_files_are_gone()
    return render_template(template, dataset=view, splits=splits, sources=sources, days_until_gone=days)
