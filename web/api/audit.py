"""The API of the audit trail. For admins."""

from apiflask import APIBlueprint

from db.access.audit import list_events
from db.database import read_scope
from web.api import PREFIX
from web.api.openapi import problems
from web.schemas.audit import AuditPage, AuditQuery
from web.security.auth import guard_admin_api

blueprint = APIBlueprint("api_audit", __name__, url_prefix=f"{PREFIX}/audit", tag="Audit trail")
guard_admin_api(blueprint)


@blueprint.get("")
@blueprint.input(AuditQuery, location="query")
@blueprint.output(AuditPage)
@blueprint.doc(responses=problems(403, 422))
def list_all(query_data: AuditQuery) -> AuditPage:
    """List who did what

    Newest first. To get the next page, send `next_cursor` as `cursor`, with the same filters. For admins.
    """
    with read_scope() as s:
        return AuditPage.model_validate(list_events(s, query_data.filter(), query_data.cursor, query_data.limit))
