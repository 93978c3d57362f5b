"""Migrates a database to the tables that this version of ctbatch needs."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from db.backup import copy_database, sqlite_file, time_stamp
from db.database import OldDatabase, OtherRevision, get_engine
from db.models import User  # noqa: F401  (loads every table into Base.metadata)
from db.models.base import Base

BEFORE_0_1_0 = ("0001", "0002", "0003", "0004")
"""Revisions of development versions; no migration leads from them."""

TOO_OLD = (
    "this database is older than release 0.1.0 and cannot be upgraded; start with an empty one: set CTBATCH_HOME or"
    " DATABASE_URL to another place"
)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade() -> Path | None:
    """Apply each missing migration in a separate transaction.

    If migrations are missing, a SQLite database is copied first. Return the path of the copy, or None. If the upgrade
    fails and has changed nothing, the copy is removed.

    Raises:
        OldDatabase: the database is older than 0.1.0, and no migration leads from it.
        OtherRevision: the database is newer than this program.
    """
    revision = current()
    check_known(revision)
    if revision == head() and _lacks_a_column():
        raise OldDatabase(TOO_OLD)
    copy = None
    if revision not in (None, head()) and get_engine().dialect.name == "sqlite":
        database = sqlite_file()
        copy = database.with_name(f"{database.name}.{revision}.{time_stamp()}")
        copy_database(copy)
    try:
        command.upgrade(_config(), "head")
    except BaseException:
        if copy is not None and current() == revision:
            copy.unlink()  # without this, each new try would leave a copy
        raise
    if get_engine().dialect.name == "sqlite":
        _keep_log_ahead()
    return copy


def check_known(revision: str | None) -> None:
    """Check that migrations lead from a revision. Raises OldDatabase, OtherRevision."""
    if revision in BEFORE_0_1_0:
        raise OldDatabase(TOO_OLD)
    if revision not in (None, *(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())):
        raise OtherRevision(
            f"the database is at revision {revision}, which this ctbatch does not know; install the newer ctbatch that"
            " upgraded it, or restore the copy from before the upgrade with `ctbatch db restore`"
        )


def _lacks_a_column() -> bool:
    """Return whether a column is missing although no migration is missing. Development versions had fewer columns."""
    with get_engine().connect() as connection:
        tables = inspect(connection).get_multi_columns()
    found = {(table, column["name"]) for (_, table), columns in tables.items() for column in columns}
    return any((table.name, column.name) not in found for table in Base.metadata.sorted_tables for column in table.c)


def _keep_log_ahead() -> None:
    """Switch the SQLite database to a write-ahead log (WAL). The database file keeps this setting.

    A commit then needs only one fsync, and readers do not block writers. If the disk does not support this, such as a
    network file system, SQLite keeps its present mode.
    """
    connection = get_engine().raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def check_revision() -> None:
    """Check that the database is at this program's revision.

    Raises:
        OldDatabase, OtherRevision: the database is at another revision.
    """
    revision, needed = current(), head()
    check_known(revision)
    if revision != needed:
        raise OtherRevision(
            f"the database is at revision {revision}, and this program needs {needed}; run `ctbatch db upgrade`"
        )


def revision(message: str) -> None:
    """Write a new migration from the difference between the tables and the models (for developers)."""
    command.revision(_config(), message, autogenerate=True)


def current() -> str | None:
    """Return the revision of the database, or None if it has no tables yet."""
    with get_engine().connect().execution_options(read_only=True) as connection:  # does not wait for a writer
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """Return the newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def differences() -> list[object]:
    """Return how the tables differ from the models, or [] if they do not."""
    with get_engine().connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))
