"""The API of training runs: launch, list, show, follow, cancel and stop them. For admins."""

from apiflask import APIBlueprint
from flask import url_for

from db.database import read_scope, session_scope
from db.models import OPEN_WORK, TrainingRun
from db.paging import newest_first
from db.training import runs
from training.errors import MAX_WEIGHTS_BYTES
from web.actions.lookup import row_of
from web.actions.request import takes_files_of
from web.actions.runs import launch, prepare, receive_weights
from web.api import PREFIX
from web.api.etags import revalidate
from web.api.openapi import FILE_BODY, IDEMPOTENCY_HEADER, NOT_MODIFIED, problems
from web.api.serializers import epochs_json, run_json
from web.errors import Problem
from web.schemas.common import ListQuery
from web.schemas.runs import EpochList, EstimateOut, RunIn, RunOut, RunPage, WeightsOut
from web.security.auth import guard_admin_api, require_admin

blueprint = APIBlueprint("api_runs", __name__, url_prefix=f"{PREFIX}/runs", tag="Training runs")
guard_admin_api(blueprint)
revalidate(blueprint)


@blueprint.post("")
@blueprint.input(RunIn)
@blueprint.output(RunOut, status_code=202, description="Queued. `Location` is the run.")
@blueprint.doc(
    responses={200: "The run that this `Idempotency-Key` launched before."}
    | problems(400, 403, 409, 413, 415, 422, 503),
    extensions={"x-parameters": [IDEMPOTENCY_HEADER]},
)
def create(json_data: RunIn) -> tuple[RunOut, int, dict[str, str]]:
    """Launch a training run

    The dataset must be ready. If the split leaks, the run is refused. `allow_leaks` can allow leaks by name. Slices of
    validation or test that the starting version was trained on are a leak too. `live` holds the estimate of time and
    disk. `POST /runs/estimate` gives the same estimate before the launch.
    """
    run_id, new = launch(require_admin(), json_data)
    return shown(run_id), 202 if new else 200, {"Location": url_for("api_runs.show", run_id=run_id)}


@blueprint.post("/estimate")
@blueprint.input(RunIn)
@blueprint.output(EstimateOut)
@blueprint.doc(responses=problems(400, 403, 409, 413, 415, 422, 503))
def estimate(json_data: RunIn) -> EstimateOut:
    """Estimate a training run

    Takes the same request as a launch, and refuses it for the same reasons, but launches nothing. The dataset's split
    is made and stored.
    """
    return EstimateOut(**prepare(json_data).as_dict())


@blueprint.post("/weights")
@takes_files_of(MAX_WEIGHTS_BYTES)
@blueprint.output(WeightsOut, status_code=201, description="Kept for a day, or for as long as a run names it.")
@blueprint.doc(responses=problems(400, 403, 413, 415, 422, 507), extensions={"x-request-body": FILE_BODY})
def send_weights() -> WeightsOut:
    """Send a file of initial weights

    A run can start from this file with `from_weights`, for example if ImageNet's weights cannot be downloaded. Send a
    ResNet50 of Keras as HDF5 or `.keras` in the part `files`.
    """
    return WeightsOut(sha256=receive_weights())


@blueprint.get("")
@blueprint.input(ListQuery, location="query")
@blueprint.output(RunPage)
@blueprint.doc(responses=problems(403, 422))
def list_all(query_data: ListQuery) -> RunPage:
    """List training runs

    Newest first.
    """
    with read_scope() as s:
        page = newest_first(s, TrainingRun, query_data.cursor, query_data.limit)
        items = [run_json(s, run) for run in page.items]
    return RunPage(items=items, next_cursor=page.next_cursor)


@blueprint.get("/<int:run_id>")
@blueprint.output(RunOut)
@blueprint.doc(responses=NOT_MODIFIED | problems(403, 404))
def show(run_id: int) -> RunOut:
    """Show a training run

    The answer has an `ETag`. Poll with `If-None-Match`.
    """
    return shown(run_id)


@blueprint.get("/<int:run_id>/epochs")
@blueprint.output(EpochList)
@blueprint.doc(responses=NOT_MODIFIED | problems(403, 404))
def list_epochs(run_id: int) -> EpochList:
    """List a run's epochs

    All epochs so far, in order. The answer has an `ETag`. Poll with `If-None-Match`.
    """
    with read_scope() as s:
        return epochs_json(s, row_of(s, TrainingRun, run_id))


@blueprint.post("/<int:run_id>/cancel")
@blueprint.output(RunOut, status_code=202, description="The run ends within seconds and keeps nothing.")
@blueprint.doc(responses=problems(400, 403, 404, 409))
def cancel(run_id: int) -> RunOut:
    """Cancel a run"""
    with session_scope() as s:
        if not runs.cancel_run(s, row_of(s, TrainingRun, run_id)):
            raise Problem(409, "conflict", "The run has already ended. Only an open run can be cancelled.")
    return shown(run_id)


@blueprint.post("/<int:run_id>/stop")
@blueprint.output(RunOut, status_code=202, description="The run ends its training and makes a model version.")
@blueprint.doc(responses=problems(400, 403, 404, 409))
def stop(run_id: int) -> RunOut:
    """Stop a run and keep what it has learned

    The version gets the weights of the best epoch so far. In a stage with `keep: last` (as in scratch and quick), it
    gets the current weights, or the weights of the previous stage if that stage ended with a lower validation loss. A
    run that waits for a worker or for disk space can be stopped only if it has a checkpoint.
    """
    with session_scope() as s:
        run = row_of(s, TrainingRun, run_id)
        if not runs.stop_run(s, run):
            waits = "The run is not running, and has no checkpoint. Cancel it instead."
            ended = "The run has already ended. Only an open run can be stopped."
            raise Problem(409, "conflict", waits if run.state in OPEN_WORK else ended)
    return shown(run_id)


def shown(run_id: int) -> RunOut:
    """Return a run for the API. Raises Problem 404."""
    with read_scope() as s:
        return run_json(s, row_of(s, TrainingRun, run_id))
