"""The pages of model versions: the list, a version's page and files, and the forms for admins."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from db.database import read_scope
from db.evaluation.version_page import version_checks, version_page
from db.findings.rules import rule_of
from db.models import ModelVersion
from db.registry import champions
from db.registry import versions as registry
from db.registry.engine_proofs import list_servings, refusal
from db.registry.transfer import MAX_BYTES as MAX_PACKAGE_BYTES
from db.storage import FileDamaged, FileMissing
from db.training.caveats import unknown_tuning
from web.actions import models
from web.actions.lookup import row_of
from web.actions.request import sends_files, takes_files_of
from web.downloads import model_files
from web.errors import Problem, not_found
from web.security.auth import require_admin, require_user
from web.security.guards import guard_pages_for_admins_to_change
from web.views.forms import form_errors, page_response

COMPARED = ("with_model", "dataset")  # parameters of a comparison in an address

blueprint = APIBlueprint("models", __name__, url_prefix="/models", enable_openapi=False)
guard_pages_for_admins_to_change(blueprint)


@blueprint.get("")
def index(problem: Problem | None = None) -> Response:
    """List all model versions, newest first."""
    with read_scope() as s:
        versions, now = registry.list_versions(s), champions.champion(s)
        before = champions.champion_before(s)
    shown = {"versions": versions, "champion": now, "before": before, "is_admin": require_user().is_admin}
    return page_response("models/models.html", problem, **shown)


@blueprint.get("/<int:version_id>")
def show(version_id: int) -> Response:
    """Show a model version."""
    return _page(version_id, None)


@blueprint.get("/<int:version_id>/checks")
def checks(version_id: int) -> str:
    """Return the part of a version's page that changes while it is checked or compared."""
    return render_template("models/_model_checks.html", **_checks(version_id))


@blueprint.get("/<int:version_id>/report")
@sends_files
def report(version_id: int) -> Response:
    """Show the training report, a separate page that cannot run scripts. It shows slices, so it is for admins."""
    require_admin()
    return model_files.report_response(_version(version_id), request.args.get("theme", ""))


@blueprint.get("/<int:version_id>/training-report")
def framed_report(version_id: int) -> str:
    """Show the training report in a page with links to the version and to its dataset.

    The report names each slice by its row in that dataset.
    """
    require_admin()
    with read_scope() as s:
        version = row_of(s, ModelVersion, version_id)
        if model_files.REPORT not in version.files:
            raise not_found()
        return render_template("models/report.html", version=version, dataset=version_page(s, version).dataset)


@blueprint.get("/<int:version_id>/figures/<name>")
def figure(version_id: int, name: str) -> Response:
    """Return one of the report's figures."""
    return model_files.figure_response(_version(version_id), name, require_user())


@blueprint.post("/<int:version_id>/compare")
def compare(version_id: int) -> ResponseReturnValue:
    """Request the comparison of the version with the champion."""
    models.compare(require_admin(), version_id)
    return redirect(url_for("models.show", version_id=version_id, _anchor="champion"), 303)


@blueprint.post("/<int:version_id>/comparisons")
def compare_with(version_id: int) -> ResponseReturnValue:
    """Request the comparison of the version with another one on the same slices."""
    with_model, dataset = (request.form.get(name, "") for name in COMPARED)
    models.compare_with(require_admin(), version_id, with_model, dataset)
    shown = url_for("models.show", version_id=version_id, with_model=with_model, dataset=dataset, _anchor="comparison")
    return redirect(shown, 303)


@blueprint.post("/<int:version_id>/promote")
@form_errors(lambda problem, version_id: _page(version_id, problem))
def promote(version_id: int) -> ResponseReturnValue:
    """Make a version the champion, if the gate allows it or the admin overrides it."""
    reason, force = request.form.get("reason", ""), request.form.get("force") == "1"
    models.promote(require_admin(), version_id, reason, force=force, champion=request.form.get("champion"))
    flash(f"{_version(version_id).label} is the champion now. New jobs get it; existing jobs keep their version.")
    return redirect(url_for("models.show", version_id=version_id), 303)


@blueprint.post("/rollback")
@form_errors(index)
def rollback() -> ResponseReturnValue:
    """Make the previous champion the champion again."""
    version_id = models.roll_back(require_admin(), request.form.get("reason", ""), request.form.get("champion"))
    version = _version(version_id)
    flash(f"Rolled back: {version.label} is the champion again. Existing jobs keep their version.")
    with read_scope() as s:
        warning = refusal(s, version)
    if warning:
        flash(warning, "caution")
    return redirect(url_for("models.show", version_id=version_id), 303)


@blueprint.post("/demo")
@form_errors(index)
def promote_demo() -> ResponseReturnValue:
    """Make the demo model the champion if there is none."""
    version_id = models.promote_demo(require_admin())
    flash(f"{_version(version_id).label} is the champion now. New jobs get it.")
    return redirect(url_for("models.show", version_id=version_id), 303)


@blueprint.post("/<int:version_id>/check")
def check(version_id: int) -> ResponseReturnValue:
    """Request the site check of a version on a labelled dataset."""
    models.check_site(require_admin(), version_id, request.form.get("dataset", ""))
    return redirect(url_for("models.show", version_id=version_id, _anchor="checks"), 303)


@blueprint.post("/import")
@takes_files_of(MAX_PACKAGE_BYTES)
@form_errors(index)
def import_model() -> ResponseReturnValue:
    """Import a version that was exported elsewhere."""
    require_admin()
    version_id, _ = models.import_version()
    return redirect(url_for("models.show", version_id=version_id), 303)


def _version(version_id: int) -> ModelVersion:
    with read_scope() as s:
        return row_of(s, ModelVersion, version_id)


def _page(version_id: int, problem: Problem | None) -> Response:
    user = require_user()
    with read_scope() as s:
        version = row_of(s, ModelVersion, version_id)
        shown = vars(version_page(s, version))
        rule = rule_of(version)
        tuning_deleted = bool(unknown_tuning(s, rule))
        servings = list_servings(s, version_id=version.id) if user.is_admin else []
    return page_response(
        "models/model.html",
        problem,
        **shown | _checks(version_id),
        finding_rule=rule,
        tuning_deleted=tuning_deleted,
        servings=servings,
        figures=model_files.figure_links(version, user),
        card=_card(version),
        report=model_files.REPORT in version.files,
    )


def _card(version: ModelVersion) -> str | None:
    try:
        return model_files.card_text(version)
    except (FileMissing, FileDamaged):
        return "The model card is missing from storage, or damaged."


def _checks(version_id: int) -> dict[str, Any]:
    """Return the values for the part of the page that changes.

    If the query string names another version, add the comparison with that version.
    """
    with read_scope() as s:
        checks = version_checks(s, row_of(s, ModelVersion, version_id))
    asked = {name: request.args.get(name, "") for name in COMPARED}
    comparison = models.compared(version_id, **asked) if asked["with_model"] else None
    shown = vars(checks) | {"is_champion": checks.is_champion, "comparison": comparison}
    shown["open"] = checks.open or (comparison is not None and comparison.state in ("queued", "running"))
    return shown | {
        "asked": {name: value for name, value in asked.items() if value},
        "is_admin": require_user().is_admin,
    }
