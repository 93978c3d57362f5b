"""API tokens and the sessions of browsers. Both are secrets, and only their hashes are stored."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from db.access.audit import Action, record
from db.clock import from_now, moment
from db.database import current
from db.models import Token, User

PREFIX = "ctb_"


def hash_of(secret: str) -> str:
    """Return the SHA-256 of a secret, as hex."""
    # A secret of 256 random bits does not need a slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()


def issue_token(s: Session, user: User, label: str, expires_in: timedelta | None = None, kind: str = "api") -> str:
    """Make a token and return its secret. Only the hash is stored, so the secret can be shown only now."""
    secret = PREFIX + secrets.token_urlsafe(32)
    add_token(s, user, label, secret, expires_in, kind)
    return secret


def add_token(
    s: Session, user: User, label: str, secret: str, expires_in: timedelta | None = None, kind: str = "api"
) -> int:
    """Make a token with this secret, and return its id."""
    seconds = None if expires_in is None else expires_in.total_seconds()
    token = Token(
        user_id=user.id,
        label=label,
        kind=kind,
        secret_hash=hash_of(secret),
        expires_at=None if seconds is None else moment(s, seconds),
    )
    s.add(token)
    s.flush()
    if kind == "api":
        record(s, Action.TOKEN_MAKE, f"user {user.name}", f"token {token.id}")
    return token.id


def secret_of_request(session_secret: str, key: str) -> str:
    """Return the secret of the token that a request with this idempotency key makes. Repeated, it is the same.

    It is as hard to guess as the secret of the session (HMAC-SHA256, RFC 2104).
    """
    digest = hmac.digest(session_secret.encode(), f"token {key}".encode(), "sha256")
    return PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _live(secret: str) -> tuple[ColumnElement[bool], ...]:
    return (
        Token.secret_hash == hash_of(secret),
        Token.revoked_at.is_(None),
        Token.expires_at.is_(None) | (Token.expires_at > from_now()),
        Token.user.has(User.disabled_at.is_(None)),
        (Token.kind != "session") | (Token.used_at > from_now(-current().session_idle_seconds)),
    )


@dataclass(frozen=True)
class SignedIn:
    """The user whom a token signs in. `touch_due`: the token's use was last recorded a minute ago or longer.

    `via`: the kind of the token, and an API token's id.
    """

    user: User
    touch_due: bool
    via: str


def signed_in(s: Session, secret: str) -> SignedIn | None:
    """Return the user whom a token signs in.

    Return None if the token is unknown, revoked, expired or idle, or if the user is disabled.
    """
    pause = min(60.0, current().session_idle_seconds / 2)
    row = s.execute(select(Token, Token.used_at < from_now(-pause)).where(*_live(secret))).one_or_none()
    if row is None:
        return None
    token = row[0]
    return SignedIn(token.user, row[1], f"token {token.id}" if token.kind == "api" else token.kind)


def token_user(s: Session, secret: str) -> User | None:
    """Return the user of a token, or None as `signed_in` does."""
    found = signed_in(s, secret)
    return found.user if found else None


def user_of_unrevoked(s: Session, secret: str) -> User | None:
    """Return the user of a token or session, even if it has expired.

    Return None if it is unknown or revoked, or if the user is disabled.
    """
    token = s.scalar(select(Token).where(Token.secret_hash == hash_of(secret), Token.revoked_at.is_(None)))
    return token.user if token and token.user.disabled_at is None else None


def touch_session(s: Session, secret: str) -> None:
    """Record that a person uses a session now, so that the session does not end for being idle."""
    s.execute(update(Token).where(Token.secret_hash == hash_of(secret)).values(used_at=from_now()))


def list_tokens(s: Session, user: User) -> list[Token]:
    """Return the API tokens of a user that are neither revoked nor expired, newest first."""
    live = (Token.revoked_at.is_(None), Token.expires_at.is_(None) | (Token.expires_at > from_now()))
    return list(
        s.scalars(select(Token).where(Token.user_id == user.id, Token.kind == "api", *live).order_by(Token.id.desc()))
    )


def revoke_token(s: Session, user: User, token_id: int) -> bool:
    """Revoke a token of this user. Return False if the user has no valid token with this id."""
    token = s.get(Token, token_id)
    if token is None or token.user_id != user.id or token.revoked_at is not None:
        return False
    token.revoked_at = moment(s)
    record(s, Action.TOKEN_REVOKE, f"user {user.name}", f"token {token_id}")
    return True


def end_session(s: Session, secret: str) -> User | None:
    """Sign out: revoke the token of this secret, and return its user. Return None if the token is not valid."""
    token = s.scalar(select(Token).where(*_live(secret)))
    if token is None:
        return None
    token.revoked_at = moment(s)
    return token.user


def revoke_all(s: Session, user: User) -> None:
    """Revoke all tokens and sessions of this user."""
    s.execute(update(Token).where(Token.user_id == user.id, Token.revoked_at.is_(None)).values(revoked_at=from_now()))
