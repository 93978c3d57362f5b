"""Migrations: bring a database up to the tables that this version expects."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from db.database import OldDatabase, get_engine
from db.models import User  # noqa: F401  (loads every table into Base.metadata)
from db.models.base import Base

BEFORE_0_1_0 = ("0001", "0002", "0003", "0004")
"""Revisions of development versions; no migration leads from them."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def upgrade() -> None:
    """Apply each missing migration in a transaction of its own.

    Raises:
        OldDatabase: the database is older than 0.1.0, and no migration leads from it.
    """
    if current() in BEFORE_0_1_0:
        raise OldDatabase(
            "this database is older than release 0.1.0 and cannot be upgraded; start with an empty one: set"
            " CTBATCH_HOME or DATABASE_URL to another place"
        )
    command.upgrade(_config(), "head")


def revision(message: str) -> None:
    """Write a new migration from the difference between the tables and the models (for developers)."""
    command.revision(_config(), message, autogenerate=True)


def current() -> str | None:
    """Return the revision of the database, or None if it has no tables yet."""
    with get_engine().connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    """Return the newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def differences() -> list[object]:
    """Return how the tables differ from the models; empty if they do not."""
    with get_engine().connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))
