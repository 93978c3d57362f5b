"""Training runs: the list, the launch form, and a run's live page with its curves. For admins."""

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
from training.config import ABOUT
from training.launch.launch import can_start_from
from web.actions.lookup import row_of
from web.actions.runs import launch, prepare, receive_weights
from web.errors import Problem, as_problem
from web.schemas.common import ListQuery
from web.schemas.runs import RunIn
from web.security.auth import require_admin
from web.security.guards import guard_admin_pages
from web.views.forms import form_values, parsed

blueprint = APIBlueprint("runs", __name__, url_prefix="/runs", enable_openapi=False)
guard_admin_pages(blueprint)


@blueprint.get("")
def index() -> str:
    """All training runs, newest first."""
    query = parsed(ListQuery, request.args)
    with read_scope() as s:
        page = newest_first(s, TrainingRun, query.cursor, query.limit)
        views = [runs.run_view(s, run) for run in page.items]
    return render_template("runs/runs.html", views=views, next_cursor=page.next_cursor, query=query)


@blueprint.get("/<int:run_id>/row")
def row(run_id: int) -> str:
    """One row of the list; a row whose run is open asks for itself again."""
    with read_scope() as s:
        return render_template("runs/_run_row.html", run=runs.run_view(s, row_of(s, TrainingRun, run_id)))


@blueprint.get("/new")
def form() -> Response:
    """Choose what to train, on what, from what."""
    return _form(None)


@blueprint.post("/new")
def create() -> ResponseReturnValue:
    """Launch the run."""
    if request.form.get("files"):
        return _form(Problem(422, "invalid", "A file of weights is chosen, but not sent: send it first."))
    try:
        run_id = launch(require_admin(), _asked())
    except Problem as problem:
        return _form(problem)
    return redirect(url_for("runs.show", run_id=run_id), 303)


@blueprint.get("/new/weights")
def sent_weights() -> ResponseReturnValue:
    """The address of the form once weights were sent, asked for anew."""
    return redirect(url_for("runs.form"))


@blueprint.post("/new/weights")
def send_weights() -> ResponseReturnValue:
    """Receive a file of weights that the run to be launched starts from; the form comes back as it was filled in."""
    try:
        weights = receive_weights()
    except Exception as error:
        problem = as_problem(error)
        if problem.status == 500:
            raise
        return _form(problem)
    return _form(None, weights)


@blueprint.post("/new/estimate")
def estimate() -> str:
    """The part of the form that says what the run would take, or why it would be refused."""
    try:
        return render_template("runs/_run_estimate.html", prepared=prepare(_asked()))
    except Problem as problem:
        return render_template("runs/_run_estimate.html", problem=problem)


def _asked() -> RunIn:
    """What the form asks for. Raises Problem 422."""
    lines = [line.partition("=") for line in request.form.get("settings", "").splitlines() if line.strip()]
    settings = [f"{key.strip()}{equals}{value.strip()}" for key, equals, value in lines]
    lists = {"settings": settings, "allow_leaks": request.form.getlist("allow_leaks")}
    return form_values(RunIn, request.form, **lists)


@blueprint.get("/<int:run_id>")
def show(run_id: int) -> str:
    """A run's page."""
    with read_scope() as s:
        run = row_of(s, TrainingRun, run_id)
        return render_template("runs/run.html", **_live(s, run), champion_run=_champion_run(s, run))


@blueprint.get("/<int:run_id>/live")
def live(run_id: int) -> str:
    """The part of a run's page that changes while it trains."""
    with read_scope() as s:
        return render_template("runs/_run.html", **_live(s, row_of(s, TrainingRun, run_id)))


@blueprint.post("/<int:run_id>/cancel")
def cancel(run_id: int) -> ResponseReturnValue:
    """Ask a run to end and keep nothing."""
    with session_scope() as s:
        runs.cancel_run(s, row_of(s, TrainingRun, run_id))
    return redirect(url_for("runs.show", run_id=run_id), 303)


@blueprint.post("/<int:run_id>/stop")
def stop(run_id: int) -> ResponseReturnValue:
    """Ask a run to end its training and keep what was learned."""
    with session_scope() as s:
        runs.stop_run(s, row_of(s, TrainingRun, run_id))
    return redirect(url_for("runs.show", run_id=run_id), 303)


def _live(s: Session, run: TrainingRun) -> dict[str, Any]:
    epochs = runs.epochs_of(s, run.id)
    return {
        "run": runs.run_view(s, run),
        "dataset_id": run.dataset_id,
        "version_id": run.model_version_id,
        "from_id": run.from_version_id,
        "last": epochs[-1] if epochs else None,
    }


def _champion_run(s: Session, run: TrainingRun) -> TrainingRun | None:
    """The run that made the champion, if it is another one and its epochs are here."""
    version = champion(s)
    made_by = version.facts.run if version else None
    found = runs.find_run(s, made_by) if made_by is not None and made_by != run.id else None
    return found if found is not None and runs.epochs_of(s, found.id) else None


def _form(problem: Problem | None, weights: str = "") -> Response:
    with read_scope() as s:
        ready = [dataset.label for dataset in list_datasets(s) if dataset.state == Work.DONE]
        models = [version.label for version in list_versions(s) if can_start_from(version)]
    shown: dict[str, Any] = {"dataset": request.args.get("dataset", "")} | dict(request.form.items())
    shown |= {"from_weights": weights} if weights else {}
    allowed = request.form.getlist("allow_leaks")
    page = render_template(
        "runs/run_new.html",
        problem=problem,
        values=shown,
        allowed=allowed,
        datasets=ready,
        models=models,
        presets=ABOUT.items(),
        leaks=LEAKS,
    )
    status = 200 if problem is None else problem.status
    return Response(page, status, content_type="text/html; charset=utf-8")
