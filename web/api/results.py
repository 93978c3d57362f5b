"""The API of a job's results: pages of results, whole exports, and images of slices."""

from apiflask import APIBlueprint
from apiflask.schemas import FileSchema
from flask import Response, request

from db.ledger.job_view import job_view
from db.ledger.places import count_results
from db.ledger.results import ResultsQuery, results_page
from db.ledger.series import series_after
from db.ledger.tally import notice_of, tallies_of
from db.series.images import SliceImage, slice_image
from web.actions.lookup import ROW_IDS, reading_job
from web.actions.request import sends_files
from web.api import PREFIX
from web.api.openapi import problems
from web.api.serializers import job_json
from web.downloads import job_results
from web.downloads.pieces import download, notice_of_export
from web.errors import not_found
from web.schemas.common import ListQuery
from web.schemas.jobs import ExportOut, ImageQuery, ResultPage, SeriesListOut
from web.security.auth import guard_api, require_user

PARQUET = "application/vnd.apache.parquet"

blueprint = APIBlueprint("api_results", __name__, url_prefix=f"{PREFIX}/jobs/<job_id>", tag="Results")
guard_api(blueprint)


@blueprint.get("/results")
@blueprint.input(ResultsQuery, location="query")
@blueprint.output(ResultPage)
@blueprint.doc(responses=problems(404, 422))
def list_results(job_id: str, query_data: ResultsQuery) -> ResultPage:
    """List a job's slices

    To get the next page, send `next_cursor` as `cursor`, with the same filters and order.
    """
    with reading_job(job_id) as (s, job):
        page = results_page(s, job, query_data, require_user())
        total = count_results(s, job, query_data, require_user()) if query_data.cursor is None else None
        notice = notice_of(job.model_version, [row.engine for row in page.items])
    return ResultPage(items=page.items, next_cursor=page.next_cursor, total=total, notice=notice)


@blueprint.get("/series")
@blueprint.input(ListQuery, location="query")
@blueprint.output(SeriesListOut)
@blueprint.doc(responses=problems(404, 422))
def list_series(job_id: str, query_data: ListQuery) -> SeriesListOut:
    """List a job's series

    Sorted by patient. A folder of pictures is a series too. The counts are not a verdict on a patient.
    """
    with reading_job(job_id) as (s, job):
        page = series_after(s, job, query_data.cursor, query_data.limit)
        notice = notice_of(job.model_version, tallies_of(s, [job])[job.id].engines)
    return SeriesListOut(items=page.items, next_cursor=page.next_cursor, notice=notice)


@blueprint.get("/results.csv")
@sends_files
@blueprint.output(FileSchema(), content_type="text/csv", description="A row for each slice.")
@blueprint.doc(responses=problems(404))
def results_csv(job_id: str) -> Response:
    """Download all results as CSV

    Streamed. The last column, `notice`, says that this is for research use only. A cell that a spreadsheet would
    take for a formula begins with an apostrophe.

    While the job is open, the file holds only the slices that are read. Then its name ends in `-partial`, and `notice`
    and the header `X-Incomplete` state how many slices are done.
    """
    with reading_job(job_id) as (s, job):
        view = job_view(s, job)
    return download(job_results.csv_lines(job, notice_of_export(view)), view, "csv", "text/csv; charset=utf-8")


@blueprint.get("/results.json")
@sends_files
@blueprint.output(ExportOut)
@blueprint.doc(responses=problems(404))
def results_json(job_id: str) -> Response:
    """Download all results as JSON

    Streamed: `{"notice", "job", "findings": […], "series": […], "results": […]}`. An export of an open job is marked
    like the CSV, and has no findings.
    """
    with reading_job(job_id) as (s, job):
        view = job_view(s, job)
    return download(
        job_results.json_pieces(job, job_json(view), notice_of_export(view)), view, "json", "application/json"
    )


@blueprint.get("/results.parquet")
@sends_files
@blueprint.output(FileSchema(type="string", format="binary"), content_type=PARQUET, description="A row for each slice.")
@blueprint.doc(responses=problems(404))
def results_parquet(job_id: str) -> Response:
    """Download all results as Parquet

    Streamed, with the columns of the CSV. `reviews` is a list of records, and `notes` a list of codes. The metadata of
    the file have `notice` and, as JSON, `job`. An export of an open job is marked like the CSV.
    """
    from web.downloads.parquet import parquet_pieces

    with reading_job(job_id) as (s, job):
        view = job_view(s, job)
    return download(parquet_pieces(job, job_json(view), notice_of_export(view)), view, "parquet", PARQUET)


@blueprint.get("/slices/<int:slice_id>/image.png")
@blueprint.input(ImageQuery, location="query")
@blueprint.output(FileSchema(type="string", format="binary"), content_type="image/png", description="The slice.")
@blueprint.doc(responses=problems(404, 422, 503))
def image(job_id: str, slice_id: int, query_data: ImageQuery) -> Response:
    """Show a slice as it was given to the model

    With `heat=1`, the model's heat map is drawn over the slice, if it was predicted.
    """
    from worker.imaging.render import overlay_png, slice_png

    drawn = _slice(job_id, slice_id)
    aspect = drawn.aspect if query_data.shape == "received" else 1.0
    heat = query_data.heat == "1" and drawn.cam is not None
    if heat and drawn.cam is not None:
        png = overlay_png(drawn.pixels, drawn.cam, query_data.size, aspect)
    else:
        png = slice_png(drawn.pixels, query_data.size, aspect)
    response = Response(png, mimetype="image/png")
    response.add_etag()
    response.make_conditional(request)
    return response


def _slice(job_id: str, slice_id: int) -> SliceImage:
    if slice_id not in ROW_IDS:
        raise not_found()
    with reading_job(job_id) as (s, job):
        image_of_slice = slice_image(s, job, slice_id)
    if image_of_slice is None:
        raise not_found()
    return image_of_slice
