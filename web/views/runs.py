"""The pages of training runs: the list, the launch form, and a run's live page with its curves. For admins."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from db.database import read_scope, session_scope
from db.datasets.datasets import list_datasets
from db.models import TrainingRun, Work
from db.paging import newest_first
from db.registry.champions import champion
from db.registry.versions import list_versions
from db.training import runs
from db.training.leaks import LEAKS
from training.config import ABOUT, ConfigError
from training.errors import MAX_WEIGHTS_BYTES
from training.launch.launch import can_start_from, request_of
from web.actions.lookup import row_of
from web.actions.request import takes_files_of
from web.actions.runs import launch, prepare, receive_weights
from web.errors import Problem
from web.schemas.common import ListQuery
from web.schemas.runs import RunIn
from web.security.auth import require_admin
from web.security.guards import guard_admin_pages
from web.views.forms import form_errors, form_values, page_response, parsed

blueprint = APIBlueprint("runs", __name__, url_prefix="/runs", enable_openapi=False)
guard_admin_pages(blueprint)


@blueprint.get("")
def index() -> str:
    """List all training runs, newest first."""
    query = parsed(ListQuery, request.args)
    with read_scope() as s:
        page = newest_first(s, TrainingRun, query.cursor, query.limit)
        views = [runs.run_view(s, run) for run in page.items]
    return render_template("runs/runs.html", views=views, page=page)


@blueprint.get("/<int:run_id>/row")
def row(run_id: int) -> str:
    """Return one row of the list. While the run is open, the row reloads itself."""
    with read_scope() as s:
        return render_template("runs/_run_row.html", run=runs.run_view(s, row_of(s, TrainingRun, run_id)))


@blueprint.get("/new")
def form(problem: Problem | None = None) -> Response:
    """Show the form to choose the dataset, the preset and the initial weights of a run."""
    return _form(problem)


@blueprint.post("/new")
@form_errors(form)
def create() -> ResponseReturnValue:
    """Launch the run."""
    if request.form.get("files"):
        raise Problem(422, "invalid", "A file of weights is chosen, but it was not sent. Send it first.")
    run_id, _ = launch(require_admin(), _request())
    return redirect(url_for("runs.show", run_id=run_id), 303)


@blueprint.get("/new/weights")
@blueprint.get("/new/start")
def sent_form() -> ResponseReturnValue:
    """Redirect to the form if an address that receives the form is opened."""
    return redirect(url_for("runs.form"))


@blueprint.post("/new/weights")
@takes_files_of(MAX_WEIGHTS_BYTES)
@form_errors(form)
def send_weights() -> ResponseReturnValue:
    """Receive a file of initial weights for the run. Show the form again as it was filled in."""
    return _form(weights=receive_weights())


@blueprint.post("/new/start")
def choose_start() -> Response:
    """Show the form again as it was filled in, without the file of weights."""
    return _form(weights="")


@blueprint.post("/new/estimate")
def estimate() -> str:
    """Return the part of the form that states the time and disk for the run, or why the run would be refused."""
    try:
        return render_template("runs/_run_estimate.html", prepared=prepare(_request()))
    except Problem as problem:
        return render_template("runs/_run_estimate.html", problem=problem)


def _request() -> RunIn:
    """Return the run that the form describes. Raises Problem 422."""
    lines = [line.partition("=") for line in request.form.get("settings", "").splitlines() if line.strip()]
    settings = [f"{key.strip()}{equals}{value.strip()}" for key, equals, value in lines]
    lists = {"settings": settings, "allow_leaks": request.form.getlist("allow_leaks")}
    return form_values(RunIn, request.form, **lists)


@blueprint.get("/<int:run_id>")
def show(run_id: int) -> str:
    """Show a training run."""
    with read_scope() as s:
        run = row_of(s, TrainingRun, run_id)
        return render_template("runs/run.html", **_live(s, run), champion_run=_champion_run(s, run))


@blueprint.get("/<int:run_id>/live")
def live(run_id: int) -> str:
    """Return the part of a run's page that changes while it trains."""
    with read_scope() as s:
        return render_template("runs/_run.html", **_live(s, row_of(s, TrainingRun, run_id)))


@blueprint.post("/<int:run_id>/cancel")
def cancel(run_id: int) -> ResponseReturnValue:
    """Cancel a run, which then keeps nothing."""
    with session_scope() as s:
        runs.cancel_run(s, row_of(s, TrainingRun, run_id))
    return redirect(url_for("runs.show", run_id=run_id), 303)


@blueprint.post("/<int:run_id>/stop")
def stop(run_id: int) -> ResponseReturnValue:
    """Stop the training of a run, and keep what it has learned."""
    with session_scope() as s:
        runs.stop_run(s, row_of(s, TrainingRun, run_id))
    return redirect(url_for("runs.show", run_id=run_id), 303)


def _live(s: Session, run: TrainingRun) -> dict[str, Any]:
    epochs = runs.epochs_of(s, run.id)
    return {
        "run": runs.run_view(s, run),
        "can_stop": runs.can_be_stopped(run),
        "dataset_id": run.dataset_id,
        "version_id": run.model_version_id,
        "from_id": run.from_version_id,
        "last": epochs[-1] if epochs else None,
    }


def _champion_run(s: Session, run: TrainingRun) -> TrainingRun | None:
    """Return the run that made the champion. Return None if it is this run, or its epochs are not in this database."""
    version = champion(s)
    made_by = version.facts.run if version else None
    champion_run = runs.find_run(s, made_by) if made_by is not None and made_by != run.id else None
    return champion_run if champion_run is not None and runs.epochs_of(s, champion_run.id) else None


def _values_of(run_id: int) -> dict[str, Any]:
    """Return the values of the form for a run like this one. Without its old preset, only its dataset is known."""
    with read_scope() as s:
        run = row_of(s, TrainingRun, run_id)
        try:
            values = request_of(run).model_dump()
        except ConfigError:
            return {"dataset": run.dataset.label if run.dataset else "", "allow_leaks": ()}
    return values | {"settings": "\n".join(values["settings"]), "seed": str(values["seed"])}


def _form(problem: Problem | None = None, weights: str | None = None) -> Response:
    """Return the form. `weights`: the SHA-256 of the file to start from, "" for no file, or None: as filled in."""
    like = None if (run_id := request.args.get("run", type=int)) is None else _values_of(run_id)
    with read_scope() as s:
        ready = [dataset.label for dataset in list_datasets(s) if dataset.state == Work.DONE]
        models = [version.label for version in list_versions(s) if can_start_from(version)]
    values = {"dataset": request.args.get("dataset", "")} | (like or {}) | dict(request.form.items())
    if weights is not None:
        values["from_weights"] = weights
    return page_response(
        "runs/run_new.html",
        problem,
        values=values,
        allowed=like["allow_leaks"] if like else request.form.getlist("allow_leaks"),
        datasets=ready,
        models=models,
        presets=ABOUT.items(),
        leaks=LEAKS,
    )
