"""The pages to sign in with a password or a one-time link, to change the password, and to sign out."""

import math

from apiflask import APIBlueprint
from flask import Response, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError
from sqlalchemy.orm import Session

from db.access import accounts, links, sign_in_counts
from db.access.accounts import AccountRefused
from db.access.audit import Action, record
from db.access.sign_in_counts import TooManyFailures
from db.database import in_transaction, read_scope, session_scope
from db.models import User
from web.errors import Problem, not_signed_in, respond, sentence
from web.security.audit import note_refusal
from web.security.auth import check_again, current_user, local_path, require_user, sign_in, sign_out
from web.security.guards import guard_forms
from web.security.sign_in_limits import limits_of
from web.views.filters import duration
from web.views.forms import page_response

blueprint = APIBlueprint("sign_in", __name__, enable_openapi=False)
guard_forms(blueprint)

WRONG = "That name and password do not match. Try again."
OLD_FORM = "This form was out of date. Sign in again. If you see this again, allow cookies for this site."
USED_LINK = "That sign-in link was used or replaced, or is too old. Sign in with your password, or ask for a new link."


@blueprint.get("/sign-in")
def form() -> ResponseReturnValue:
    """Show the sign-in form. Redirect a user who is signed in already."""
    if current_user() is not None:
        return redirect(local_path(request.args.get("next")), 303)
    return _form()


@blueprint.post("/sign-in")
def submit() -> ResponseReturnValue:
    """Sign in. A wrong password and an unknown name get the same answer after the same time."""
    user = _verified(request.form.get("name", ""), request.form.get("password", ""))
    if user is None:
        return _form(not_signed_in(WRONG))
    sign_in(user, "password")
    return redirect(local_path(request.form.get("next")), 303)


@blueprint.errorhandler(TooManyFailures)
def wait(error: TooManyFailures) -> ResponseReturnValue:
    """Show how long to wait. The answer is the same for a name that does not exist."""
    seconds = max(1, math.ceil(error.seconds))
    note_refusal("too many wrong passwords")
    where = "from your network" if error.limit.key.startswith("network:") else "for this name"
    detail = f"There were too many wrong passwords {where}. Wait {duration(seconds)}, then try again."
    show = password_form if request.endpoint == "sign_in.change_password" else _form
    response = show(Problem(429, "too-many-requests", detail))
    response.headers["Retry-After"] = str(seconds)
    return response


@blueprint.errorhandler(CSRFError)
def renew(error: CSRFError) -> ResponseReturnValue:
    """Answer a form of an old session, for example from a tab that was open when the session ended. Change nothing."""
    user = current_user()
    if request.endpoint == "sign_in.by_link":
        return redirect(request.path, 303)
    if request.endpoint == "sign_in.submit":
        if user and user.name == request.form.get("name"):
            return redirect(local_path(request.form.get("next")), 303)
        return _form(Problem(400, "csrf", OLD_FORM))
    return respond(error) if user else redirect(url_for("sign_in.form"), 303)


@blueprint.get("/sign-in/<secret>")
def link_form(secret: str) -> ResponseReturnValue:
    """Show the button that uses a link. Opening the link must not use it, because programs open it for a preview."""
    with read_scope() as s:
        user = links.link_user(s, secret)
    return _dead_link() if user is None else page_response("account/by_link.html", name=user.name)


@blueprint.post("/sign-in/<secret>")
def by_link(secret: str) -> ResponseReturnValue:
    """Sign in with a link from the command line. The link works once."""
    with session_scope() as s:
        redeemed = links.redeem_sign_in(s, secret)
    if redeemed is None:
        return _dead_link()
    user, next_path = redeemed
    sign_in(user, "link")
    return redirect(local_path(next_path), 303)


def _dead_link() -> ResponseReturnValue:
    note_refusal("a sign-in link that is not valid")
    return redirect("/", 303) if current_user() is not None else _form(not_signed_in(USED_LINK))


@blueprint.post("/sign-out")
def out() -> ResponseReturnValue:
    """End the session in the browser and on the server. Clear the pages that the browser has stored."""
    sign_out()
    response = redirect(url_for("sign_in.form"), 303)
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


@blueprint.get("/password")
def password_form(problem: Problem | None = None) -> Response:
    """Show the form that changes the user's own password."""
    require_user()
    return page_response("account/password.html", problem, shortest=accounts.SHORTEST_PASSWORD)


@blueprint.post("/password")
def change_password() -> ResponseReturnValue:
    """Change the user's own password. The form must hold the present one. Then only this browser is signed in."""
    user, new = require_user(), request.form.get("new", "")
    if new != request.form.get("again", ""):
        return password_form(Problem(422, "invalid", "The two new passwords differ. Type both again."))
    if _verified(user.name, request.form.get("present", "")) is None:
        return password_form(Problem(422, "invalid", "The present password is wrong. Try again."))
    try:
        with session_scope() as s:
            check_again(s)  # an admin may have set another password meanwhile
            accounts.set_password(s, s.get_one(User, user.id), new)
    except AccountRefused as error:
        return password_form(Problem(422, "invalid", sentence(error)))
    sign_in(user, "password")
    flash("Your password is changed. Your other sessions, API tokens and sign-in links have ended.")
    return redirect("/", 303)


def _verified(name: str, password: str) -> User | None:
    """Return the user if the password is theirs, or None. Raises TooManyFailures, also for the right password."""
    limits = limits_of(name)
    in_transaction(lambda s: sign_in_counts.count(s, limits))
    with read_scope() as s:
        user = accounts.verify_password(s, name.replace("\0", "\ufffd"), password)  # PostgreSQL does not accept NUL
    if user is None:
        in_transaction(lambda s: _record_refusal(s, name))
    else:
        in_transaction(lambda s: sign_in_counts.give_back(s, limits))
    return user


def _record_refusal(s: Session, name: str) -> None:
    """Record a wrong password. A name that no user has is not kept, because it may be a mistyped password."""
    user = accounts.find_user(s, name.replace("\0", "\ufffd"))
    record(s, Action.SIGN_IN_REFUSED, f"user {user.name}" if user else "an unknown user")


def _form(problem: Problem | None = None) -> Response:
    target = local_path(request.values.get("next"))
    return page_response("account/sign_in.html", problem, name=request.form.get("name", ""), next=target)
