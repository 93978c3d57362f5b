"""The account and the token with which the command line signs in to the `ctbatch up` of the same machine."""

import socket
from dataclasses import dataclass

from cli.errors import Unavailable
from cli.local.session import database_errors, enabled_user, reading, writing
from db import migrate
from db.access import accounts, links, tokens
from db.database import current
from db.registry import champions

_IF_OURS = "if nobody else uses it, run"


@dataclass(frozen=True)
class LocalAccess:
    """The secret of a token of the local admin. The token is valid while `up` runs."""

    token: str

    @staticmethod
    def prepare() -> "LocalAccess":
        """Upgrade the database, make the account if it does not exist, and issue a token for this run.

        Revoke the tokens of earlier runs in this home. They are left over if `up` was killed.

        Raises:
            Unavailable: the account is disabled, or is not an admin.
        """
        with database_errors():
            migrate.upgrade()
        with writing() as session:
            user = accounts.local_user(session)
            if user.disabled_at:
                raise Unavailable(f"the account {user.name} is disabled; {_IF_OURS} `ctbatch users enable {user.name}`")
            if not user.is_admin:
                raise Unavailable(
                    f"the account {user.name} is not an admin; {_IF_OURS} `ctbatch users role {user.name} admin`"
                )
            label = f"ctbatch up on {socket.gethostname()} in {current().home}"  # others may use this database
            for token in tokens.list_tokens(session, user):
                if token.label == label:
                    tokens.revoke_token(session, user, token.id)
            return LocalAccess(tokens.issue_token(session, user, label))

    def end(self) -> None:
        """Revoke the token and the sign-in link."""
        with writing() as session:
            tokens.end_session(session, self.token)
            links.end_links(session, accounts.local_user(session))

    def has_champion(self) -> bool:
        """Return whether a model version is the champion, so that there can be new jobs."""
        with reading() as session:
            return champions.champion(session) is not None


def sign_in_link(url: str, next_path: str, name: str = accounts.LOCAL_USER) -> str:
    """Return an address that signs a user in once, and then leads to `next_path`. Earlier links stop working.

    Raises:
        NotFoundOrDenied: there is no such user.
        UsageError: the user is disabled.
    """
    with writing() as session:
        user = enabled_user(session, name)
        return f"{url}/sign-in/{links.sign_in_link_secret(session, user, next_path)}"
