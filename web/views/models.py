"""The model versions, their figures, and which one is the champion."""

from apiflask import APIBlueprint
from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from db.base import read_scope, session_scope
from db.models import ModelVersion
from db.registry import champion, list_versions, promote
from web.auth import require_admin, require_user
from web.errors import not_found
from web.guards import guard_pages
from web.lookup import ROW_IDS

blueprint = APIBlueprint("models", __name__, url_prefix="/models", enable_openapi=False)
guard_pages(blueprint)

REASON_LENGTH = 500


@blueprint.get("")
def index() -> str:
    """All model versions, newest first."""
    with read_scope() as s:
        versions, now = list_versions(s), champion(s)
    return render_template("models.html", versions=versions, champion=now, can_promote=require_user().is_admin)


@blueprint.post("/<int:version_id>/promote")
def make_champion(version_id: int) -> ResponseReturnValue:
    """Make a version the champion, with the admin's reason; jobs that exist keep theirs."""
    user = require_admin()
    reason = " ".join(request.form.get("reason", "").split())[:REASON_LENGTH]
    with session_scope() as s:
        version = s.get(ModelVersion, version_id) if version_id in ROW_IDS else None
        if version is None:
            raise not_found()
        promote(s, version, user, reason or "no reason given")
    return redirect(url_for("models.index"), 303)
