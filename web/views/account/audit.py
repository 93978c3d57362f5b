"""The page of the audit trail: who did what. For admins."""

from apiflask import APIBlueprint
from flask import render_template, request

from db.access.audit import Action, list_events
from db.database import read_scope
from web.schemas.audit import AuditQuery
from web.security.guards import guard_admin_pages
from web.views.forms import parsed

blueprint = APIBlueprint("audit", __name__, url_prefix="/audit", enable_openapi=False)
guard_admin_pages(blueprint)


@blueprint.get("")
def index() -> str:
    """List the events, newest first."""
    query = parsed(AuditQuery, request.args)
    with read_scope() as s:
        page = list_events(s, query.filter(), query.cursor, query.limit)
    kinds = sorted({action.partition(".")[0] for action in Action})
    chosen = query.model_dump(mode="json", exclude={"cursor", "limit"}, exclude_none=True)
    return render_template(
        "account/audit.html", page=page, query=query, chosen=chosen, actions=list(Action), kinds=kinds
    )
