"""`ctbatch tokens`: makes, lists and revokes the tokens with which programs sign in."""

import math
from datetime import timedelta

import click

from cli.errors import NotFoundOrDenied, UsageError
from cli.local.session import enabled_user, existing_user, reading, writing
from cli.options import ROW_ID, json_option
from cli.output import print_json, print_rows, say
from db.access import accounts
from db.access import tokens as api_tokens
from db.models import Token

LIFE = click.FloatRange(0, 36_500, min_open=True)  # days


@click.group()
def tokens() -> None:
    """Make, list and revoke API tokens.

    Opens the database directly: the one in DATABASE_URL, or else ctbatch.db in the --home folder.
    """


@tokens.command()
@click.argument("user_name", metavar="USER")
@click.option("--label", default="", help="State the purpose of the token  [default: command line]")
@click.option("--days", type=LIFE, help="End the token after this number of days  [default: never]")
@json_option
def new(user_name: str, label: str, days: float | None, as_json: bool) -> None:
    """Make a token for USER and print it. The token is shown only once. The database keeps only its hash."""
    if days is not None and math.isnan(days):
        raise UsageError("--days is not a number")
    with writing() as session:
        user = enabled_user(session, user_name)
        life = timedelta(days=days) if days is not None else None
        secret = api_tokens.issue_token(session, user, label or "command line", life)
        view = _view(api_tokens.list_tokens(session, user)[0])
    print_json({**view, "token": secret}) if as_json else click.echo(secret)


@tokens.command("ls")
@click.argument("user_name", metavar="[USER]", required=False)
@json_option
def list_tokens(user_name: str | None, as_json: bool) -> None:
    """List the valid tokens of USER, or of all users."""
    with reading() as session:
        owners = [existing_user(session, user_name)] if user_name else accounts.list_users(session)
        views = [
            {**_view(token), "user": user.name} for user in owners for token in api_tokens.list_tokens(session, user)
        ]
    print_rows(views, ("id", "user", "label", "created_at", "expires_at"), as_json, empty="no tokens")


@tokens.command()
@click.argument("token_id", type=ROW_ID, metavar="ID")
def revoke(token_id: int) -> None:
    """Revoke the token ID. The server refuses it from now on."""
    with writing() as session:
        token = session.get(Token, token_id)
        if token is None or not api_tokens.revoke_token(session, token.user, token_id):
            raise NotFoundOrDenied(f"{token_id} is not a valid token's id; `ctbatch tokens ls` lists them")
    say(f"token {token_id} is revoked")


def _view(token: Token) -> dict[str, object]:
    ends = token.expires_at.isoformat() if token.expires_at else None
    return {"id": token.id, "label": token.label, "created_at": token.created_at.isoformat(), "expires_at": ends}
