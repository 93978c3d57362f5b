"""The API of model versions: list, show, promote, roll back, check, compare, export and import them."""

from apiflask import APIBlueprint
from apiflask.schemas import FileSchema
from flask import Response, url_for

from db.database import read_scope
from db.evaluation.evaluations import EvaluationView
from db.models import ModelVersion
from db.registry.champions import champion
from db.registry.transfer import MAX_BYTES as MAX_PACKAGE_BYTES
from db.registry.versions import list_versions
from web.actions import models
from web.actions.lookup import row_of
from web.actions.request import sends_files, takes_files_of
from web.api import PREFIX
from web.api.etags import revalidate
from web.api.openapi import FILE_BODY, NOT_MODIFIED, problems
from web.api.serializers import model_detail, model_json
from web.downloads import model_files
from web.schemas.models import (
    CheckIn,
    CompareIn,
    ComparisonOut,
    ExportQuery,
    ModelDetail,
    ModelList,
    PromoteIn,
    RollbackIn,
)
from web.security.auth import guard_api, require_admin

blueprint = APIBlueprint("api_models", __name__, url_prefix=f"{PREFIX}/models", tag="Models")
guard_api(blueprint)
revalidate(blueprint)


@blueprint.get("")
@blueprint.output(ModelList)
@blueprint.doc(responses=problems())
def list_models() -> ModelList:
    """List model versions

    Newest first. New jobs get the champion. A job keeps the version that it was created with.
    """
    with read_scope() as s:
        now = champion(s)
        versions = list_versions(s)
    return ModelList(items=[model_json(version, now.id if now else None) for version in versions])


@blueprint.get("/<int:model_id>")
@blueprint.output(ModelDetail)
@blueprint.doc(responses=NOT_MODIFIED | problems(404))
def show(model_id: int) -> ModelDetail:
    """Show a model version

    Shows how it was made, its metrics with intervals, its files and site checks, and its comparison with the champion.
    """
    return shown(model_id)


@blueprint.get("/<int:model_id>/card")
@blueprint.output(FileSchema(), content_type="text/markdown", description="The model card.")
@blueprint.doc(responses=problems(404))
def card(model_id: int) -> Response:
    """Read a model version's card"""
    return model_files.card_response(_version(model_id))


@blueprint.post("/<int:model_id>/promote")
@blueprint.input(PromoteIn)
@blueprint.output(ModelDetail)
@blueprint.doc(responses=problems(400, 403, 404, 409, 413, 415, 422))
def promote(model_id: int, json_data: PromoteIn) -> ModelDetail:
    """Promote a model version

    New jobs then get this version. Existing jobs keep their version. The answer to a refusal (409) has the gate's
    metrics as `gate`. If the version was not compared with the champion yet, the comparison is queued. `force` with a
    reason promotes a version that is refused, not compared yet or cannot be compared. `champion` names the champion
    that the version replaces. If another version is the champion by now, or if this version is the champion already,
    the answer is 409. For admins.
    """
    models.promote(require_admin(), model_id, json_data.reason, force=json_data.force, champion=json_data.champion)
    return shown(model_id)


@blueprint.post("/rollback")
@blueprint.input(RollbackIn)
@blueprint.output(ModelDetail)
@blueprint.doc(responses=problems(400, 403, 409, 413, 415, 422))
def rollback(json_data: RollbackIn) -> ModelDetail:
    """Roll back to the previous champion

    Needs a reason. The gate is not asked. Each further rollback goes back by one more champion.
    `warning` of the answer says if every running worker refuses the version. If there is no earlier
    champion, the answer is 409. `champion` names the champion to roll back. If another version is the champion by now,
    the answer is 409. For admins.
    """
    return shown(models.roll_back(require_admin(), json_data.reason, json_data.champion))


@blueprint.post("/<int:model_id>/checks")
@blueprint.input(CheckIn)
@blueprint.output(EvaluationView, status_code=202, description="The check is queued, or has a result from before.")
@blueprint.doc(responses=problems(400, 403, 404, 409, 413, 415, 422))
def check(model_id: int, json_data: CheckIn) -> EvaluationView:
    """Check a model version on a site's labelled slices

    The verdict says, with intervals, whether the version may be used there. If the version's rule of findings has
    changed since an earlier check, or if workers have begun to use another engine since, the check is carried out
    again. For admins.
    """
    return models.check_site(require_admin(), model_id, json_data.dataset)


@blueprint.post("/<int:model_id>/comparisons")
@blueprint.input(CompareIn)
@blueprint.output(ComparisonOut, status_code=202, description="The comparison is queued, or has a result from before.")
@blueprint.doc(responses=problems(400, 403, 404, 409, 413, 415, 422))
def compare(model_id: int, json_data: CompareIn) -> ComparisonOut:
    """Compare two model versions on the same slices

    Compares them on the test part of the first version's split, or on a whole dataset. The same groups are resampled
    for both versions. Repeat the request to get the result. If the dataset is deleted, the answer is a finished
    comparison or 409. For admins.
    """
    comparison = models.compare_with(require_admin(), model_id, json_data.with_model, json_data.dataset or "")
    return ComparisonOut.model_validate(comparison and comparison.as_dict())


@blueprint.get("/<int:model_id>/export")
@sends_files
@blueprint.input(ExportQuery, location="query")
@blueprint.output(
    FileSchema(type="string", format="binary"), content_type="application/x-tar", description="The version as one file."
)
@blueprint.doc(responses=problems(403, 404, 422, 503))
def export(model_id: int, query_data: ExportQuery) -> Response:
    """Download a model version as one file

    `POST /models/import` or `ctbatch models import` at another site reads this file. Each export of a version has the
    same bytes. Without `with_slices`, the report and the figures that show slices are left out. For admins.
    """
    require_admin()
    return model_files.export_response(_version(model_id), with_slices=query_data.with_slices == "1")


@blueprint.post("/import")
@takes_files_of(MAX_PACKAGE_BYTES)
@blueprint.output(ModelDetail, status_code=201, description="Registered; it is not promoted.")
@blueprint.doc(
    responses={200: "The same version was here already."} | problems(400, 403, 413, 415, 422, 507),
    extensions={"x-request-body": FILE_BODY},
)
def import_model() -> tuple[ModelDetail, int, dict[str, str]]:
    """Import a model version

    Send one exported file in the part `files`. Every hash is checked before anything is registered. For admins.
    """
    require_admin()
    model_id, new = models.import_version()
    return shown(model_id), 201 if new else 200, {"Location": url_for("api_models.show", model_id=model_id)}


def shown(model_id: int) -> ModelDetail:
    """Return a model version for the API. Raises Problem 404."""
    with read_scope() as s:
        return model_detail(s, row_of(s, ModelVersion, model_id))


def _version(model_id: int) -> ModelVersion:
    with read_scope() as s:
        return row_of(s, ModelVersion, model_id)
