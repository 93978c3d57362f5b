"""Copies the SQLite database while processes work, and puts a copy in the place of the database."""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from db.database import SQLITE_BUSY_MS, get_engine
from db.storage.files import sync_folder

# Bytes that every SQLite connection locks while it uses a database, and in WAL mode for as long as it is open
# (https://www.sqlite.org/src/file/src/os.h, SHARED_FIRST and SHARED_SIZE).
SHARED_FIRST, SHARED_SIZE = 0x40000002, 510


class BackupRefused(Exception):
    """The database cannot be copied or replaced. The message says what to do."""


def sqlite_file() -> Path:
    """Return the file of the SQLite database in use. Raises BackupRefused: the database is PostgreSQL."""
    engine = get_engine()
    if engine.dialect.name != "sqlite":
        raise BackupRefused("the database is PostgreSQL; use pg_dump and pg_restore as docs/operations.md says")
    return Path(str(engine.url.database))


def time_stamp() -> str:
    """Return the present time (UTC) for the name of a file, as in 20260101T120000Z."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def copy_database(target: Path) -> None:
    """Write one consistent copy of the SQLite database to a new file, which only this user can read.

    Other processes can read and write the database meanwhile.

    Raises:
        BackupRefused: the database is PostgreSQL or does not exist, or `target` exists.
        OSError, sqlite3.Error: it cannot be copied. `target` does not exist then.
    """
    if not sqlite_file().exists():
        raise BackupRefused(f"there is no database at {sqlite_file()}; check --home and DATABASE_URL")
    if target.exists():
        raise BackupRefused(f"{target} exists; choose another name")
    with closing(sqlite3.connect(sqlite_file(), timeout=SQLITE_BUSY_MS / 1000)) as connection:
        _copy(connection, target)


def _copy(source: sqlite3.Connection, target: Path) -> None:
    """Write a complete copy, make it durable, and only then give it its name."""
    draft = target.with_name(f".{target.name}.{uuid4().hex[:8]}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            source.execute("VACUUM INTO ?", (str(draft),))  # one transaction that reads; it cannot run in another one
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(target.parent)


def restore_database(copy: Path, check_revision: Callable[[str], None]) -> Path | None:
    """Put a copy in the place of the SQLite database. Return the new path of the replaced database, or None.

    The replaced database keeps its own log. SQLite would add a log that stayed behind to the restored database, and
    damage it. `check_revision` raises an error if this program cannot use or upgrade a database at a revision.

    Raises:
        BackupRefused: the database is PostgreSQL, other processes use it, or `copy` is not a sound database of ctbatch.
        OSError, sqlite3.Error: the copy cannot be read or written. The database stays as it is.
    """
    database = sqlite_file()
    if database.exists() and copy.samefile(database):
        raise BackupRefused(f"{copy} is the database itself; name a copy of it")
    get_engine().dispose()
    new = database.with_name(f".{database.name}.{uuid4().hex[:8]}")
    try:
        with _used_by_nobody(database):
            with closing(_open_copy(copy)) as source:
                _check_copy(source, copy, check_revision)
                _copy(source, new)
            with closing(sqlite3.connect(new)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # as `migrate.upgrade` does
            replaced = _move_aside(database)
            new.rename(database)
            sync_folder(database.parent)
    finally:
        new.unlink(missing_ok=True)
    return replaced


@contextmanager
def _used_by_nobody(database: Path) -> Iterator[None]:
    """Keep other processes out of the database during the block.

    This uses SQLite's own lock, and not SQLite, which cannot open every damaged database.

    Raises:
        BackupRefused: another process has the database open.
    """
    if not database.exists():
        yield
        return
    with database.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)
        except (BlockingIOError, PermissionError) as error:
            raise BackupRefused(
                "other processes use the database; stop `ctbatch up` and all workers, then try again"
            ) from error
        yield


def _open_copy(copy: Path) -> sqlite3.Connection:
    """Open a copy for reading. Files beside the copy are written only if it has a log of its own."""
    has_log = any(Path(f"{copy}{end}").exists() for end in ("-wal", "-journal"))
    return sqlite3.connect(f"{copy.absolute().as_uri()}?mode={'rw' if has_log else 'ro&immutable=1'}", uri=True)


def _check_copy(source: sqlite3.Connection, copy: Path, check_revision: Callable[[str], None]) -> None:
    try:
        [[damage]] = source.execute("PRAGMA quick_check(1)")
        tables = {name for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise BackupRefused(f"{copy} cannot be restored: {error}; choose another copy") from error
    if damage != "ok":
        raise BackupRefused(f"{copy} is damaged ({' '.join(damage.split())}); choose another copy")
    if not {"alembic_version", "installation"} <= tables:
        raise BackupRefused(f"{copy} is not a database of ctbatch; choose another file")
    for (revision,) in source.execute("SELECT version_num FROM alembic_version"):
        check_revision(revision)


def _move_aside(database: Path) -> Path | None:
    """Rename a database and its log, and return its new path. Return None if there is no database."""
    aside = database.with_name(f"{database.name}.replaced.{time_stamp()}")
    exists = database.exists()
    if exists:
        database.rename(aside)
    for end in ("-wal", "-journal"):
        if (log := Path(f"{database}{end}")).exists():
            log.rename(f"{aside}{end}")
    Path(f"{database}-shm").unlink(missing_ok=True)  # SQLite makes it anew
    return aside if exists else None
