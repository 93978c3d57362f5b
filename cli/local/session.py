"""Opens the database for the commands of operators, and reports database errors in one line."""

import os
import pwd
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from cli.errors import NotFoundOrDenied, Refused, Unavailable, UsageError
from db.access.accounts import find_user
from db.access.audit import Actor, act_as
from db.backup import BackupRefused
from db.database import OldDatabase, OtherRevision, read_scope, session_scope
from db.models import User
from db.settings import MIB, get_settings

NEEDED_BYTES = MIB  # SQLite makes files of some 10 KiB when it opens a database


@contextmanager
def database_errors() -> Iterator[None]:
    """Report in one line that the database is unreachable, damaged or not upgraded.

    Raises:
        Refused: the database cannot be copied or replaced.
        Unavailable: the database cannot be used. Replaces the errors of the database driver.
    """
    try:
        yield
    except ArgumentError as error:
        raise Unavailable(f"DATABASE_URL is not a database URL: {error}") from error
    except (OldDatabase, OtherRevision) as error:
        raise Unavailable(str(error)) from error
    except BackupRefused as error:
        raise Refused(str(error)) from error
    except sqlite3.Error as error:  # from db.backup, which copies without SQLAlchemy
        raise Unavailable(f"the database cannot be used: {error}") from error
    except IntegrityError:
        raise
    except DatabaseError as error:
        why = str(error.orig).strip().splitlines()[0] if error.orig else str(error)
        if "no such table" in why or "does not exist" in why or "unable to open database file" in why:
            raise Unavailable(f"the database is not set up ({why}); run `ctbatch db upgrade`") from error
        raise Unavailable(f"the database cannot be used: {why}{_advice()}") from error


def _advice() -> str:
    """Return what to do if the disk is full. SQLite then says `disk I/O error`, as for a broken disk."""
    home = get_settings().home
    with suppress(OSError):
        if shutil.disk_usage(home).free < NEEDED_BYTES:
            return f"; the disk of {home} is full: free some megabytes by hand, then run `ctbatch files purge`"
    return ""


@contextmanager
def writing() -> Iterator[Session]:
    """Open a transaction. It commits at the end of the block. An error rolls it back."""
    act_as_operator()
    with database_errors(), session_scope() as session:
        yield session


@contextmanager
def reading() -> Iterator[Session]:
    """Open a read-only view of the database."""
    with database_errors(), read_scope() as session:
        yield session


def check_storage_mark() -> None:
    """Check that the storage still has the mark of this database. If either is unreachable, return without an error.

    Raises:
        Unavailable: the mark is missing. The volume may not be mounted, so uploads would go into an empty folder.
    """
    from db.installation import ForeignStorage, StorageAway, check_storage

    with suppress(OperationalError, OSError), read_scope() as session:
        try:
            check_storage(session)
        except StorageAway as error:
            raise Unavailable(str(error)) from error
        except ForeignStorage:  # the doctor reports this, and nothing is removed
            pass


def existing_user(session: Session, name: str) -> User:
    """Return the user of this name.

    Raises:
        NotFoundOrDenied: there is no such user.
    """
    user = find_user(session, name)
    if user is None:
        raise NotFoundOrDenied(f"there is no user named {name}; `ctbatch users ls` lists them")
    return user


def enabled_user(session: Session, name: str) -> User:
    """Return the user of this name, who can sign in.

    Raises:
        NotFoundOrDenied: there is no such user.
        UsageError: the user is disabled.
    """
    user = existing_user(session, name)
    if user.disabled_at:
        raise UsageError(f"{name} is disabled and cannot sign in; `ctbatch users enable {name}` changes this")
    return user


def operator_name() -> str:
    """Return the name of the account that runs the command line, if the machine knows it.

    The environment could name anybody, so only the system is asked. If root was reached by sudo, name who did so.
    """
    account = _account(os.getuid())
    if account is None:  # a container's user may have no name
        return "the command line"
    by = _account(int(uid)) if os.getuid() == 0 and (uid := os.environ.get("SUDO_UID", "")).isdecimal() else None
    return f"{account}{f' (by {by})' if by else ''} at the command line"


def _account(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


def act_as_operator() -> None:
    """Let the audit trail name the person at the command line for what this process does."""
    act_as(lambda: Actor(None, operator_name()))
