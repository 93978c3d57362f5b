"""One-time links that sign a user in without a password. They are valid for a short time."""

import secrets

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from db.access.audit import Action, record
from db.access.tokens import hash_of
from db.clock import from_now, moment
from db.database import current
from db.models import SignInLink, User


def end_links(s: Session, user: User) -> None:
    """End all sign-in links of a user."""
    s.execute(
        update(SignInLink).where(SignInLink.user_id == user.id, SignInLink.used_at.is_(None)).values(used_at=from_now())
    )


def sign_in_link_secret(s: Session, user: User, next_path: str) -> str:
    """Return a secret that signs this user in once, within `sign_in_link_seconds`, and leads to `next_path`.

    Earlier links of this user no longer work.
    """
    end_links(s, user)
    secret = secrets.token_urlsafe(32)
    s.add(
        SignInLink(
            user_id=user.id,
            secret_hash=hash_of(secret),
            next_path=next_path,
            expires_at=moment(s, current().sign_in_link_seconds),
        )
    )
    s.flush()
    record(s, Action.USER_LINK, f"user {user.name}")
    return secret


def link_user(s: Session, secret: str) -> User | None:
    """Return the user whom a sign-in link would sign in, or None. The link stays valid."""
    link = s.scalar(select(SignInLink).where(*_live_link(secret)))
    return link.user if link else None


def _live_link(secret: str) -> tuple[ColumnElement[bool], ...]:
    return (
        SignInLink.secret_hash == hash_of(secret),
        SignInLink.used_at.is_(None),
        SignInLink.expires_at > from_now(),
        SignInLink.user_id.in_(select(User.id).where(User.disabled_at.is_(None))),
    )


def redeem_sign_in(s: Session, secret: str) -> tuple[User, str] | None:
    """Use a sign-in link, which then no longer works. Return its user and its path.

    Return None if the link is unknown, used or expired, or if the user is disabled.
    """
    link_id = s.scalar(
        update(SignInLink).where(*_live_link(secret)).values(used_at=from_now()).returning(SignInLink.id)
    )
    link = s.get(SignInLink, link_id) if link_id else None
    return (link.user, link.next_path) if link else None
