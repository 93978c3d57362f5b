"""`ctbatch users`: adds, lists, disables and enables accounts, and sets their passwords and roles."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from cli.errors import Unavailable, UsageError
from cli.local.access import sign_in_link
from cli.local.session import existing_user, reading, writing
from cli.options import json_option
from cli.output import print_json, print_rows, say
from cli.remote.find_server import read_local
from db.access import accounts
from db.models import User
from db.settings import get_settings


@click.group()
def users() -> None:
    """Add, list, disable and enable user accounts. Set passwords and roles.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


@users.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="Let the user see every job and promote models.")
@click.option(
    "--no-password",
    is_flag=True,
    help="Set no password. The user signs in with a token or a sign-in link.",
)
@json_option
def add(name: str, admin: bool, no_password: bool, as_json: bool) -> None:
    """Add the user NAME, and ask for the password.

    If stdin is not a terminal, its first line is the password.
    """
    password = None if no_password else _new_password()
    with refusals(), writing() as session:
        view = _view(accounts.create_user(session, name, password, is_admin=admin))
    print_json(view) if as_json else say(f"added {name}")


@users.command("ls")
@json_option
def list_users(as_json: bool) -> None:
    """List all users."""
    with reading() as session:
        views = [_view(user) for user in accounts.list_users(session)]
    print_rows(views, ("name", "admin", "disabled", "created_at"), as_json)


@users.command()
@click.argument("name")
def password(name: str) -> None:
    """Set the password of the user NAME. The user's sessions, tokens and sign-in links end.

    Asks for the password. If stdin is not a terminal, its first line is the password.
    """
    with reading() as session:
        existing_user(session, name)
    secret = _new_password()
    with refusals(), writing() as session:
        accounts.set_password(session, existing_user(session, name), secret)
    say(f"the password of {name} is set; their sessions, tokens and sign-in links have ended")


@users.command()
@click.argument("name")
def disable(name: str) -> None:
    """Disable the user NAME. The user's jobs and datasets stay.

    The user can no longer sign in. Their sessions, tokens and sign-in links end for good.
    """
    with refusals(), writing() as session:
        accounts.disable_user(session, existing_user(session, name))
    say(f"{name} is disabled; `ctbatch users enable {name}` lets them in again")


@users.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let the disabled user NAME sign in again, with the same password. Their earlier tokens stay revoked."""
    with writing() as session:
        accounts.enable_user(session, existing_user(session, name))
    say(f"{name} is enabled")


@users.command()
@click.argument("name")
@click.argument("role", metavar="admin|user", type=click.Choice(["admin", "user"]))
def role(name: str, role: str) -> None:
    """Make the user NAME an admin or an ordinary user. This takes effect immediately."""
    with refusals(), writing() as session:
        accounts.set_admin(session, existing_user(session, name), role == "admin")
    say(f"{name} is now {'an admin' if role == 'admin' else 'a user'}")


@users.command()
@click.argument("name")
@click.option("--url", metavar="URL", help="Use this address of the server  [default: `ctbatch up` of this machine]")
def link(name: str, url: str | None) -> None:
    """Print a sign-in link for the user NAME.

    The link works once, and needs no password. The user's earlier links stop working.
    """
    local = read_local(get_settings().run_dir)
    if not url and local is None:
        raise Unavailable("no `ctbatch up` runs on this machine; name the server by --url")
    click.echo(sign_in_link((url or (local.url if local else "")).rstrip("/"), "/", name))


@contextmanager
def refusals() -> Iterator[None]:
    """Turn a refusal to make or change an account into a usage error."""
    try:
        yield
    except accounts.AccountRefused as error:
        raise UsageError(str(error)) from error


def _view(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "name": user.name,
        "admin": user.is_admin,
        "disabled": user.disabled_at is not None,
        "created_at": user.created_at.isoformat(),
    }


def _new_password() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\n")
