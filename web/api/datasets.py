"""The API of datasets: make, list, show, split and delete them. For admins."""

from apiflask import APIBlueprint
from flask import url_for

from db.database import read_scope
from db.models import Dataset
from db.paging import newest_first
from web.actions import datasets
from web.actions.lookup import row_of
from web.actions.request import takes_files
from web.api import PREFIX
from web.api.etags import revalidate
from web.api.openapi import DATASET_BODY, IDEMPOTENCY_HEADER, NOT_MODIFIED, problems
from web.api.serializers import dataset_json
from web.schemas.common import ListQuery
from web.schemas.datasets import DatasetOut, DatasetPage, SplitIn
from web.security.auth import guard_admin_api, require_admin

blueprint = APIBlueprint("api_datasets", __name__, url_prefix=f"{PREFIX}/datasets", tag="Datasets")
guard_admin_api(blueprint)
revalidate(blueprint)


@blueprint.post("")
@takes_files
@blueprint.output(DatasetOut, status_code=202, description="Queued. `Location` is the dataset.")
@blueprint.doc(
    responses={200: "The dataset that this `Idempotency-Key` made before."}
    | problems(400, 403, 413, 415, 422, 503, 507),
    extensions={"x-request-body": DATASET_BODY, "x-parameters": [IDEMPOTENCY_HEADER]},
)
def create() -> tuple[DatasetOut, int, dict[str, str]]:
    """Make a dataset

    Send archives and images in parts named `files`. Label them with a CSV in the part `labels`, with a file named
    `labels.csv` or `groups.csv` among the `files`, or with a folder for each class. The CSV has the columns `file` and
    `label`, and optionally `group`, `split` and `source`. Instead of files, you can name `jobs`. The dataset is then
    made of the reviewed slices of these jobs. If one archive or the CSV is refused, the whole request is refused.
    """
    view, new = datasets.create(require_admin())
    return shown(view.id), 202 if new else 200, {"Location": url_for("api_datasets.show", dataset_id=view.id)}


@blueprint.get("")
@blueprint.input(ListQuery, location="query")
@blueprint.output(DatasetPage)
@blueprint.doc(responses=problems(403, 422))
def list_all(query_data: ListQuery) -> DatasetPage:
    """List datasets

    Newest first, without their reports and splits.
    """
    with read_scope() as s:
        page = newest_first(s, Dataset, query_data.cursor, query_data.limit)
        items = [dataset_json(s, dataset, whole=False) for dataset in page.items]
    return DatasetPage(items=items, next_cursor=page.next_cursor)


@blueprint.get("/<int:dataset_id>")
@blueprint.output(DatasetOut)
@blueprint.doc(responses=NOT_MODIFIED | problems(403, 404))
def show(dataset_id: int) -> DatasetOut:
    """Show a dataset

    The report counts classes, groups, sizes, modes, formats, duplicates and files left out. It also holds the shortcut
    check. The splits are listed with their leaks. The answer has an `ETag`.
    """
    return shown(dataset_id)


@blueprint.post("/<int:dataset_id>/splits")
@blueprint.input(SplitIn)
@blueprint.output(DatasetOut)
@blueprint.doc(responses=problems(400, 403, 404, 409, 413, 415, 422))
def split(dataset_id: int, json_data: SplitIn) -> DatasetOut:
    """Split a dataset

    Splits the dataset by group into train, validation and test. The same seed gives the same split. Training does not
    need this request, because a run splits its dataset. Use it to see the parts and the leaks before training.
    """
    datasets.split(dataset_id, json_data)
    return shown(dataset_id)


@blueprint.delete("/<int:dataset_id>")
@blueprint.output({}, status_code=204, description="Deleted.")
@blueprint.doc(responses=problems(400, 403, 404, 409))
def delete(dataset_id: int) -> tuple[str, int]:
    """Delete a dataset

    From now on, nothing can use it. Its slices and their names are erased, and its files are deleted days later. Files
    that something else uses stay. Model versions that were trained on it lose their report and pictures of slices,
    unless another dataset has the same slices, labels and groups. Results of runs and evaluations stay. A new dataset
    never gets its name and number. If the dataset is being built, the answer is 409 with the `code` `dataset_building`.
    If an open run or a running evaluation reads its slices, the answer is 409 with the `code` `run_open` or
    `evaluation_open`. Evaluations on it that have not begun fail.
    """
    datasets.delete(dataset_id)
    return "", 204


def shown(dataset_id: int) -> DatasetOut:
    """Return a dataset for the API. Raises Problem 404."""
    with read_scope() as s:
        return dataset_json(s, row_of(s, Dataset, dataset_id))
