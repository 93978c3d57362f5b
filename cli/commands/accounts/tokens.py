"""`ctbatch tokens`: what programs sign in with."""

import math
from datetime import timedelta

import click

from cli.errors import NotFoundOrDenied, UsageError
from cli.local.session import existing_user, reading, writing
from cli.options import ROW_ID, json_option
from cli.output import print_json, print_table, say
from db import accounts
from db.models import Token

LONGEST_LIFE = 36_500  # days of a token


@click.group()
def tokens() -> None:
    """Make, list and revoke API tokens. Acts on the database of this machine's settings."""


@tokens.command()
@click.argument("user_name", metavar="USER")
@click.option("--label", default="", help="What the token is for.")
@click.option(
    "--days", type=click.FloatRange(0, LONGEST_LIFE, min_open=True), help="Ends after so many days; else never."
)
@json_option
def new(user_name: str, label: str, days: float | None, as_json: bool) -> None:
    """Make a token for USER and print it: it is shown this once, the database keeps its hash."""
    if days is not None and math.isnan(days):
        raise UsageError("--days is no number")
    with writing() as session:
        user = existing_user(session, user_name)
        life = timedelta(days=days) if days is not None else None
        secret = accounts.issue_token(session, user, label or "command line", life)
        token = accounts.list_tokens(session, user)[0]
        shown = _token(token)
    print_json({**shown, "token": secret}) if as_json else click.echo(secret)


@tokens.command("ls")
@click.argument("user_name", metavar="[USER]", required=False)
@json_option
def list_tokens(user_name: str | None, as_json: bool) -> None:
    """List the live tokens of USER, or of everyone."""
    with reading() as session:
        owners = [existing_user(session, user_name)] if user_name else accounts.list_users(session)
        found = [
            {**_token(token), "user": user.name} for user in owners for token in accounts.list_tokens(session, user)
        ]
    if as_json:
        print_json(found)
    else:
        columns = ("id", "user", "label", "created_at", "expires_at")
        print_table(columns, [[token[name] for name in columns] for token in found], empty="no tokens")


@tokens.command()
@click.argument("token_id", type=ROW_ID, metavar="ID")
def revoke(token_id: int) -> None:
    """Revoke the token ID: it is refused from now on."""
    with writing() as session:
        token = session.get(Token, token_id)
        if token is None or not accounts.revoke_token(session, token.user, token_id):
            raise NotFoundOrDenied(f"there is no live token {token_id}")
    say(f"token {token_id} is revoked")


def _token(token: Token) -> dict[str, object]:
    ends = token.expires_at.isoformat() if token.expires_at else None
    return {"id": token.id, "label": token.label, "created_at": token.created_at.isoformat(), "expires_at": ends}
