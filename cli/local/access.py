"""The account and token by which this machine's command line signs in to its own `ctbatch up`."""

from dataclasses import dataclass

from cli.local.session import database_errors, reading, writing
from db import migrate
from db.access import accounts
from db.registry import champions

USER_NAME = "local"
TOKEN_LABEL = "ctbatch up"  # noqa: S105 a label


@dataclass(frozen=True)
class LocalAccess:
    """The secret of a token of the local admin, which is valid while `up` runs."""

    token: str

    @staticmethod
    def prepare() -> "LocalAccess":
        """Upgrade the database, make the account if there is none, and issue a token for this run.

        Revoke tokens of earlier runs, which a kill may have left.
        """
        with database_errors():
            migrate.upgrade()
        with writing() as session:
            user = accounts.find_user(session, USER_NAME)
            if user is None:
                user = accounts.create_user(session, USER_NAME, None, is_admin=True)
            for token in accounts.list_tokens(session, user):
                if token.label == TOKEN_LABEL:
                    accounts.revoke_token(session, user, token.id)
            return LocalAccess(accounts.issue_token(session, user, TOKEN_LABEL))

    def end(self) -> None:
        """Revoke the token."""
        with writing() as session:
            accounts.end_session(session, self.token)

    def has_champion(self) -> bool:
        """Return whether there is a model version for new jobs."""
        with reading() as session:
            return champions.champion(session) is not None


def sign_in_link(url: str, next_path: str) -> str:
    """Return an address that signs the local admin in, once, and leads to `next_path`."""
    with writing() as session:
        user = accounts.find_user(session, USER_NAME)
        if user is None:
            raise LookupError("the local account is made by `ctbatch up`")
        return f"{url}/sign-in/{accounts.sign_in_link_secret(session, user, next_path)}"
