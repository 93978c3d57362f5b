"""Users, with their names, passwords and roles. Decides who may sign in."""

import re

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.access.audit import Action, record
from db.access.links import end_links
from db.access.tokens import revoke_all
from db.clock import moment
from db.models import User

password_hasher = PasswordHasher()
# This hash is verified if the user is unknown, so that the answer takes as long as for a known user.
_UNKNOWN = "$argon2id$v=19$m=65536,t=3,p=4$uTvYxXCyhq45xIySoMy/ig$m7Df298xK6DcpwoIW6vMvry0nZ37n/B77zm2tQJ5v74"


LOCAL_USER = "local"
"""The admin that `ctbatch up` signs in on its own machine. No other account may have this name."""

SHORTEST_PASSWORD, LONGEST_PASSWORD = 12, 1000  # characters
_NAME = re.compile(r"[\w.@+-]{1,64}")


class AccountRefused(Exception):
    """An account cannot be made or changed in this way. The message says why."""


def create_user(s: Session, name: str, password: str | None, is_admin: bool = False) -> User:
    """Add a user. Without a password they can sign in only by token or link.

    Raises AccountRefused: the name is taken, reserved or not valid, or the password is too short or too long.
    """
    if not _NAME.fullmatch(name):
        raise AccountRefused(f"{name!r} is not a valid name; use 1 to 64 letters, digits and the characters . _ @ + -")
    if name.casefold() == LOCAL_USER:
        raise AccountRefused(f"the name {LOCAL_USER} is reserved for this machine's own account; choose another name")
    if find_user(s, name):
        raise AccountRefused(f"there is a user {name!r} already; choose another name")
    return _add(s, User(name=name, is_admin=is_admin, password_hash=None if password is None else _hashed(password)))


def local_user(s: Session) -> User:
    """Return the account of this machine's command line. Make it if it does not exist."""
    return find_user(s, LOCAL_USER) or _add(s, User(name=LOCAL_USER, is_admin=True))


def _add(s: Session, user: User) -> User:
    s.add(user)
    s.flush()
    record(s, Action.USER_ADD, f"user {user.name}", _role(user))
    return user


def _hashed(password: str) -> str:
    if len(password) < SHORTEST_PASSWORD:
        raise AccountRefused(f"the password is too short; use at least {SHORTEST_PASSWORD} characters")
    if len(password) > LONGEST_PASSWORD:
        raise AccountRefused(f"the password is too long; use at most {LONGEST_PASSWORD:,} characters")
    return password_hasher.hash(password)


def disable_user(s: Session, user: User) -> None:
    """Disable a user, and end their sessions, tokens and sign-in links for good. Their jobs and runs go on.

    Raises AccountRefused: the user is the local user.
    """
    _check_not_local(user)
    user.disabled_at = user.disabled_at or moment(s)
    _end_access(s, user)
    record(s, Action.USER_DISABLE, f"user {user.name}")


def enable_user(s: Session, user: User) -> None:
    """Let a disabled user sign in again, with their password or a new link. Their tokens stay revoked."""
    user.disabled_at = None
    record(s, Action.USER_ENABLE, f"user {user.name}")


def set_admin(s: Session, user: User, is_admin: bool) -> None:
    """Make a user an admin or an ordinary user. Raises AccountRefused: the local user must stay an admin."""
    if not is_admin:
        _check_not_local(user)
    user.is_admin = is_admin
    record(s, Action.USER_ROLE, f"user {user.name}", _role(user))


def _role(user: User) -> str:
    return "admin" if user.is_admin else "user"


def _check_not_local(user: User) -> None:
    if user.name == LOCAL_USER:
        raise AccountRefused(f"{LOCAL_USER} is the account of this machine's command line, which must stay an admin")


def find_user(s: Session, name: str) -> User | None:
    """Return the user of this exact name, or None."""
    return s.scalar(select(User).where(User.name == name))


def list_users(s: Session) -> list[User]:
    """Return all users, by name."""
    return list(s.scalars(select(User).order_by(User.name)))


def admin_names(s: Session) -> list[str]:
    """Return the names of the admins who can sign in, sorted."""
    return list(s.scalars(select(User.name).where(User.is_admin, User.disabled_at.is_(None)).order_by(User.name)))


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

    Raises AccountRefused: the password is too short or too long.
    """
    user.password_hash = _hashed(password)
    _end_access(s, user)
    record(s, Action.USER_PASSWORD, f"user {user.name}")


def _end_access(s: Session, user: User) -> None:
    revoke_all(s, user)
    end_links(s, user)
