"""Users, passwords, tokens and one-time sign-in links."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.database import current
from db.models import SignInLink, Token, User

password_hasher = PasswordHasher()
# Verified against when there is no such user, so that the answer takes as long.
_UNKNOWN = "$argon2id$v=19$m=65536,t=3,p=4$uTvYxXCyhq45xIySoMy/ig$m7Df298xK6DcpwoIW6vMvry0nZ37n/B77zm2tQJ5v74"


LOCAL_USER = "local"
"""The admin that `ctbatch up` signs in on its own machine. No other account may have this name."""

LONGEST_PASSWORD = 1000  # characters
_NAME = re.compile(r"[\w.@+-]{1,64}")


class AccountRefused(Exception):
    """An account cannot be made or changed in this way; the message says why."""


def create_user(s: Session, name: str, password: str | None, is_admin: bool = False) -> User:
    """Add a user. Without a password they can sign in only by token or link.

    Raises AccountRefused: the name is taken, reserved or not valid, or the password is too long.
    """
    if not _NAME.fullmatch(name):
        raise AccountRefused(f"{name!r} is not a valid name; use 1 to 64 letters, digits and the characters . _ @ + -")
    if name.casefold() == LOCAL_USER:
        raise AccountRefused(f"the name {LOCAL_USER} is reserved for this machine's own account; choose another name")
    if find_user(s, name):
        raise AccountRefused(f"there is a user {name!r} already; choose another name")
    return _add(s, User(name=name, is_admin=is_admin, password_hash=_hashed(password) if password else None))


def local_user(s: Session) -> User:
    """Return the account of this machine's command line, made if there is none."""
    return find_user(s, LOCAL_USER) or _add(s, User(name=LOCAL_USER, is_admin=True))


def _add(s: Session, user: User) -> User:
    s.add(user)
    s.flush()
    return user


def _hashed(password: str) -> str:
    if len(password) > LONGEST_PASSWORD:
        raise AccountRefused(f"the password is too long; use at most {LONGEST_PASSWORD:,} characters")
    return password_hasher.hash(password)


def disable_user(s: Session, user: User) -> None:
    """Let nothing sign this user in any more: password, session, token or link. Their work goes on.

    Raises AccountRefused: it is the local user.
    """
    _check_not_local(user)
    user.disabled_at = user.disabled_at or _at(s, 0)


def enable_user(user: User) -> None:
    """Let a disabled user sign in again. Their tokens work again, too."""
    user.disabled_at = None


def set_admin(user: User, is_admin: bool) -> None:
    """Make a user an admin, or an admin a user. Raises AccountRefused: it is the local user."""
    _check_not_local(user)
    user.is_admin = is_admin


def _check_not_local(user: User) -> None:
    if user.name == LOCAL_USER:
        raise AccountRefused(f"{LOCAL_USER} is the account of this machine's command line, which must stay an admin")


def find_user(s: Session, name: str) -> User | None:
    """Return the user of this exact name, or None."""
    return s.scalar(select(User).where(User.name == name))


def list_users(s: Session) -> list[User]:
    """Return all users, by name."""
    return list(s.scalars(select(User).order_by(User.name)))


def verify_password(s: Session, name: str, password: str) -> User | None:
    """Return the user if the password is theirs and they are not disabled, or None.

    An unknown name takes as long as a wrong password.
    """
    user = find_user(s, name)
    expected = user.password_hash if user and user.password_hash and len(password) <= LONGEST_PASSWORD else _UNKNOWN
    try:
        password_hasher.verify(expected, password)
    except (VerificationError, InvalidHashError):
        return None
    return user if user and expected == user.password_hash and user.disabled_at is None else None


def set_password(s: Session, user: User, password: str) -> None:
    """Set a password. The user's browsers are signed out, and their tokens and sign-in links no longer work.

    Raises AccountRefused: it is too long.
    """
    user.password_hash = _hashed(password)
    s.execute(update(Token).where(Token.user_id == user.id, Token.revoked_at.is_(None)).values(revoked_at=from_now()))
    end_links(s, user)


def end_links(s: Session, user: User) -> None:
    """Let no sign-in link of this user work any more."""
    s.execute(
        update(SignInLink).where(SignInLink.user_id == user.id, SignInLink.used_at.is_(None)).values(used_at=from_now())
    )


def _hash(secret: str) -> str:
    # A secret of 256 random bits does not need a slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()


def issue_token(s: Session, user: User, label: str, expires_in: timedelta | None = None, kind: str = "api") -> str:
    """Make a token and return its secret. Only its hash is stored, so it can be shown only now."""
    secret = "ctb_" + secrets.token_urlsafe(32)
    seconds = None if expires_in is None else expires_in.total_seconds()
    s.add(
        Token(
            user_id=user.id,
            label=label,
            kind=kind,
            secret_hash=_hash(secret),
            expires_at=None if seconds is None else _at(s, seconds),
        )
    )
    s.flush()
    return secret


def _at(s: Session, seconds: float) -> datetime:
    moment: datetime | None = s.scalar(select(from_now(seconds)))
    assert moment is not None  # noqa: S101  (a clock always answers)
    return moment


def _live(secret: str) -> tuple[ColumnElement[bool], ...]:
    return (
        Token.secret_hash == _hash(secret),
        Token.revoked_at.is_(None),
        Token.expires_at.is_(None) | (Token.expires_at > from_now()),
        Token.user.has(User.disabled_at.is_(None)),
        (Token.kind != "session") | (Token.used_at > from_now(-current().session_idle_seconds)),
    )


@dataclass(frozen=True)
class SignedIn:
    """Who a token signs in. `touch_due`: whether its use was recorded a minute ago or longer."""

    user: User
    touch_due: bool


def signed_in(s: Session, secret: str) -> SignedIn | None:
    """Return whom a token signs in, or None if it is unknown, revoked, expired or idle, or they are disabled."""
    pause = min(60.0, current().session_idle_seconds / 2)
    row = s.execute(select(Token, Token.used_at < from_now(-pause)).where(*_live(secret))).one_or_none()
    return None if row is None else SignedIn(row[0].user, row[1])


def token_user(s: Session, secret: str) -> User | None:
    """Return the user of a token, or None as `signed_in` does."""
    found = signed_in(s, secret)
    return found.user if found else None


def touch_session(s: Session, secret: str) -> None:
    """Record that a person uses a session now, so that it does not end as idle."""
    s.execute(update(Token).where(Token.secret_hash == _hash(secret)).values(used_at=from_now()))


def list_tokens(s: Session, user: User) -> list[Token]:
    """Return the API tokens of a user that are not revoked, newest first."""
    return list(
        s.scalars(
            select(Token)
            .where(Token.user_id == user.id, Token.kind == "api", Token.revoked_at.is_(None))
            .order_by(Token.id.desc())
        )
    )


def revoke_token(s: Session, user: User, token_id: int) -> bool:
    """Revoke a token of this user; return False if they have no live token of this id."""
    token = s.get(Token, token_id)
    if token is None or token.user_id != user.id or token.revoked_at is not None:
        return False
    token.revoked_at = _at(s, 0)
    return True


def end_session(s: Session, secret: str) -> None:
    """Sign out: revoke the token of this secret, if it is live."""
    if token := s.scalar(select(Token).where(*_live(secret))):
        token.revoked_at = _at(s, 0)


def sign_in_link_secret(s: Session, user: User, next_path: str) -> str:
    """Return a secret that signs this user in once, within `sign_in_link_seconds`, and leads to `next_path`.

    Earlier links of this user no longer work.
    """
    end_links(s, user)
    secret = secrets.token_urlsafe(32)
    s.add(
        SignInLink(
            user_id=user.id,
            secret_hash=_hash(secret),
            next_path=next_path,
            expires_at=_at(s, current().sign_in_link_seconds),
        )
    )
    s.flush()
    return secret


def link_user(s: Session, secret: str) -> User | None:
    """Return the user whom a sign-in link would sign in, or None. The link is not used up."""
    link = s.scalar(select(SignInLink).where(*_live_link(secret)))
    return link.user if link else None


def _live_link(secret: str) -> tuple[ColumnElement[bool], ...]:
    return (
        SignInLink.secret_hash == _hash(secret),
        SignInLink.used_at.is_(None),
        SignInLink.expires_at > from_now(),
        SignInLink.user_id.in_(select(User.id).where(User.disabled_at.is_(None))),
    )


def redeem_sign_in(s: Session, secret: str) -> tuple[User, str] | None:
    """Use up a sign-in link and return its user and path.

    Return None if it is unknown, used or expired, or its user is disabled.
    """
    link_id = s.scalar(
        update(SignInLink).where(*_live_link(secret)).values(used_at=from_now()).returning(SignInLink.id)
    )
    link = s.get(SignInLink, link_id) if link_id else None
    return (link.user, link.next_path) if link else None
