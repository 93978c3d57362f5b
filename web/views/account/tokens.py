"""The page of a user's API tokens: list, make (the secret is shown once) and revoke them."""

from datetime import timedelta

from apiflask import APIBlueprint
from flask import Response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue

from db.access import tokens as api_tokens
from db.database import read_scope, session_scope
from web.actions.lookup import SMALL_IDS
from web.errors import not_found
from web.security.auth import require_user
from web.security.guards import guard_pages
from web.views.forms import page_response
from worker.imaging.display_names import display_name

blueprint = APIBlueprint("tokens", __name__, url_prefix="/tokens", enable_openapi=False)
guard_pages(blueprint)

LABEL_LENGTH = 80
LIVES = {"30": timedelta(days=30), "90": timedelta(days=90), "365": timedelta(days=365), "": None}
"""How long a token is valid, by the form's value. An empty value sets no limit."""

_MADE, _REVOKED = "token_made", "token_revoked"


@blueprint.get("")
def index() -> Response:
    """List the user's valid tokens. Report a new or revoked token only once, not again after a reload."""
    made, revoked = session.pop(_MADE, None), session.pop(_REVOKED, False)
    with read_scope() as s:
        tokens = api_tokens.list_tokens(s, require_user())
    return page_response("account/tokens.html", tokens=tokens, made=made, revoked=revoked)


@blueprint.post("")
def make() -> ResponseReturnValue:
    """Make a token. The list shows the secret once. Until then, the secret is in the browser's cookie."""
    label = display_name(" ".join(request.form.get("label", "").split()))[:LABEL_LENGTH] or "unnamed"
    life = LIVES.get(request.form.get("days", "90"), LIVES["90"])
    with session_scope() as s:
        secret = api_tokens.issue_token(s, require_user(), label, life)
    session[_MADE] = {"secret": secret, "label": label}
    return redirect(url_for("tokens.index"), 303)


@blueprint.get("/<int:token_id>/revoke")
def revoked(token_id: int) -> ResponseReturnValue:
    """Redirect to the list if the address that revokes a token is only opened."""
    return redirect(url_for("tokens.index"), 303)


@blueprint.post("/<int:token_id>/revoke")
def revoke(token_id: int) -> ResponseReturnValue:
    """Revoke a token."""
    with session_scope() as s:
        if token_id not in SMALL_IDS or not api_tokens.revoke_token(s, require_user(), token_id):
            raise not_found()
    session[_REVOKED] = True
    return redirect(url_for("tokens.index"), 303)
