"""The page of a user's API tokens: list, make (the secret is shown once) and revoke them."""

from datetime import timedelta

from apiflask import APIBlueprint
from flask import Response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue

from db.access import tokens as api_tokens
from db.database import read_scope, session_scope
from web.actions.keys import idempotency_key, new_key, once
from web.actions.lookup import SMALL_IDS
from web.errors import Problem, not_found
from web.security.auth import request_secret, require_user
from web.security.guards import guard_pages
from web.views.forms import page_response
from worker.imaging.display_names import display_name

blueprint = APIBlueprint("tokens", __name__, url_prefix="/tokens", enable_openapi=False)
guard_pages(blueprint)

LABEL_LENGTH = 80
LIVES = {"30": timedelta(days=30), "90": timedelta(days=90), "365": timedelta(days=365), "": None}
"""How long a token is valid, by the form's value. An empty value sets no limit."""

SENT_BEFORE = "This form has made its token already. Go back, reload that page, and make another."

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
    """Make a token. The list shows the secret once. Until then, the secret is in the browser's cookie.

    A form that is sent twice, for example by a double click, makes one token and shows its secret. Raises Problem 409.
    """
    label = display_name(" ".join(request.form.get("label", "").split()))[:LABEL_LENGTH] or "unnamed"
    days = request.form.get("days", "90")
    user, life = require_user(), LIVES.get(days, LIVES["90"])
    secret = api_tokens.secret_of_request(request_secret() or "", idempotency_key() or new_key())
    once(user, "token", [label, days], lambda s: api_tokens.add_token(s, user, label, secret, life))
    with read_scope() as s:
        if api_tokens.token_user(s, secret) is None:
            raise Problem(409, "conflict", SENT_BEFORE)
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
