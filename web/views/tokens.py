"""A user's own API tokens: list, make (the secret is shown once), revoke."""

from datetime import timedelta

from apiflask import APIBlueprint
from flask import Response, request
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


@blueprint.get("")
def index() -> Response:
    """List the user's live tokens."""
    return _page()


@blueprint.post("")
def make() -> Response:
    """Make a token and show its secret once."""
    label = display_name(" ".join(request.form.get("label", "").split()))[:LABEL_LENGTH] or "unnamed"
    life = LIVES.get(request.form.get("days", "90"), LIVES["90"])
    with session_scope() as s:
        secret = api_tokens.issue_token(s, require_user(), label, life)
    return _page(secret=secret, label=label)


@blueprint.post("/<int:token_id>/revoke")
def revoke(token_id: int) -> ResponseReturnValue:
    """Revoke a token."""
    with session_scope() as s:
        if token_id not in SMALL_IDS or not api_tokens.revoke_token(s, require_user(), token_id):
            raise not_found()
    return _page(revoked=True)


def _page(secret: str | None = None, label: str = "", revoked: bool = False) -> Response:
    with read_scope() as s:
        tokens = api_tokens.list_tokens(s, require_user())
    return page_response("account/tokens.html", tokens=tokens, secret=secret, label=label, revoked=revoked)
