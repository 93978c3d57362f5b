"""The page of the audit trail: who did what. For admins."""

from apiflask import APIBlueprint
from flask import render_template, request

from db.access.audit import Action, Filter, list_events
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
        page = list_events(s, Filter(query.actor, query.action, query.object), query.cursor, query.limit)
    kinds = sorted({action.partition(".")[0] for action in Action})
    return render_template("account/audit.html", page=page, query=query, actions=list(Action), kinds=kinds)
