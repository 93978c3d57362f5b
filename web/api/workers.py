"""The API of workers: which engine predicts on which machine. For admins."""

from apiflask import APIBlueprint

from db.database import read_scope
from db.registry.champions import versions_in_use
from db.registry.engine_proofs import list_servings
from web.api import PREFIX
from web.api.etags import revalidate
from web.api.openapi import NOT_MODIFIED, problems
from web.api.serializers import serving_json
from web.schemas.workers import WorkerList
from web.security.auth import guard_admin_api

blueprint = APIBlueprint("api_workers", __name__, url_prefix=f"{PREFIX}/workers", tag="Workers")
guard_admin_api(blueprint)
revalidate(blueprint)


@blueprint.get("")
@blueprint.output(WorkerList)
@blueprint.doc(responses=NOT_MODIFIED | problems(403))
def list_workers() -> WorkerList:
    """List the engines on each worker's machine

    Sorted by host, the newest model version first. A worker proves an engine before it predicts with it. The list shows
    the proofs from the last time that a host loaded a version. A host disappears from the list five minutes after its
    last inference worker has ended. The answer has a strong `ETag`. For admins.
    """
    with read_scope() as s:
        in_use = versions_in_use(s)
        return WorkerList(items=[serving_json(serving, in_use) for serving in list_servings(s)])
