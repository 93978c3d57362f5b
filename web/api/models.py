"""Model versions over the API."""

from typing import Any

from apiflask import APIBlueprint

from db.base import read_scope
from db.registry import champion, list_versions
from web.api import PREFIX
from web.api.schemas import ModelList
from web.auth import guard_api
from web.job_json import model_json

blueprint = APIBlueprint("api_models", __name__, url_prefix=f"{PREFIX}/models", tag="Models")
guard_api(blueprint)


@blueprint.get("")
@blueprint.output(ModelList)
def list_models() -> dict[str, Any]:
    """List model versions

    Newest first. New jobs get the champion; a job keeps the version it was created with.
    """
    with read_scope() as s:
        now = champion(s)
        versions = list_versions(s)
    return {"items": [model_json(version, now.id if now else None) for version in versions], "next_cursor": None}
