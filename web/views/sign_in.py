"""Signing in by password or by a one-time link, and signing out."""

from apiflask import APIBlueprint
from flask import Response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import MethodNotAllowed

from db.access import accounts
from db.database import read_scope, session_scope
from db.models import User
from web.errors import Problem, not_signed_in
from web.security.auth import current_user, local_path, sign_in, sign_out
from web.security.guards import guard_forms
from web.security.sign_in_limits import SIGN_IN_LIMIT, limiter
from web.views.forms import page_response

blueprint = APIBlueprint("sign_in", __name__, enable_openapi=False)
guard_forms(blueprint)

WRONG = "That name and password do not match. Try again."
USED_LINK = "That sign-in link was used before or is too old. Sign in with your password, or make a new link."
LONGEST = 1000


@blueprint.get("/sign-in")
def form() -> ResponseReturnValue:
    """Show the sign-in form. A user who is signed in already goes on."""
    if current_user() is not None:
        return redirect(local_path(request.args.get("next")), 303)
    return _form()


@blueprint.post("/sign-in")
@limiter.limit(SIGN_IN_LIMIT, deduct_when=lambda response: response.status_code == 401)
def submit() -> ResponseReturnValue:
    """Sign in. A wrong password and an unknown name get the same answer after the same time."""
    user = _verified(request.form.get("name", ""), request.form.get("password", ""))
    if user is None:
        return _form(not_signed_in(WRONG))
    sign_in(user)
    return redirect(local_path(request.form.get("next")), 303)


@blueprint.get("/sign-in/<secret>")
def by_link(secret: str) -> ResponseReturnValue:
    """Sign in by a link that the command line printed. It works once, so a HEAD must not use it up."""
    if request.method != "GET":
        raise MethodNotAllowed(["GET"])
    with session_scope() as s:
        redeemed = accounts.redeem_sign_in(s, secret)
    if redeemed is not None:
        user, next_path = redeemed
        sign_in(user)
        return redirect(local_path(next_path), 303)
    return redirect("/", 303) if current_user() is not None else _form(not_signed_in(USED_LINK))


@blueprint.post("/sign-out")
def out() -> ResponseReturnValue:
    """End the session in the browser and on the server, and clear the pages that the browser kept."""
    sign_out()
    response = redirect(url_for("sign_in.form"), 303)
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


def _verified(name: str, password: str) -> User | None:
    name, password = name[:LONGEST], password[:LONGEST]
    with read_scope() as s:
        return accounts.verify_password(s, name.replace("\0", "\ufffd"), password)  # PostgreSQL takes no NUL


def _form(problem: Problem | None = None) -> Response:
    target = local_path(request.values.get("next"))
    return page_response("account/sign_in.html", problem, name=request.form.get("name", ""), next=target)
