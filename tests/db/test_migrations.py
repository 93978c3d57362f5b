"""Migrations make exactly the tables that the models describe, on both databases."""

import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import JSON, text

from db import database as base
from db import migrate
from db.models.base import FILE, NO_FILE, Base
from db.settings import Settings


def test_migrations_and_models_agree(database: Settings) -> None:
    assert migrate.current() == migrate.head()
    assert migrate.differences() == []


def test_upgrading_twice_changes_nothing(database: Settings) -> None:
    migrate.upgrade()
    assert migrate.differences() == []


def test_reader_holds_up_no_writer(database: Settings) -> None:
    with base.read_scope() as reader:
        reader.execute(text("SELECT * FROM installation"))
        with base.session_scope() as s:
            if s.get_bind().dialect.name == "sqlite":
                s.execute(text("PRAGMA busy_timeout=0"))
            s.execute(text("UPDATE installation SET swept_at = created_at"))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_migration_has_no_time_limit_and_leaves_no_lock(database: Settings) -> None:
    with base.make_engine(database, migrating=True).connect() as connection:
        limits = [connection.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "lock_timeout")]
    assert limits == ["0", "0"]
    migrate.upgrade()
    with base.read_scope() as s:
        assert s.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")) == 0


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_migration_waits_for_another_one_however_long_it_takes(
    database: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PG_OPTIONS", "-c lock_timeout=1")  # in milliseconds, for all but migrations
    base.use(database)
    migrated: list[object] = []
    second = threading.Thread(target=lambda: migrated.append(migrate.upgrade()))
    with base.make_engine(database, migrating=True).connect() as first:
        first.execute(text("SELECT pg_advisory_lock(72057594037927)"))  # as db/migrations/env.py does
        second.start()
        while second.is_alive() and not first.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            time.sleep(0.01)
        time.sleep(0.1)
    second.join()
    assert migrated == [None]


def test_sqlite_database_is_copied_before_an_upgrade(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "head", lambda: "the next")
    copy = migrate.upgrade()
    assert copy is not None
    base.use(settings.model_copy(update={"database_url": f"sqlite:///{copy}"}))
    assert migrate.differences() == []


def copies(settings: Settings) -> list[str]:
    """The names of the files that upgrades left beside the SQLite database."""
    return [path.name for path in settings.home.glob("ctbatch.db.*")]


@pytest.mark.parametrize("act", [migrate.upgrade, migrate.check_revision], ids=lambda act: act.__name__)
def test_newer_database_is_refused_and_not_copied(settings: Settings, act: Callable[[], object]) -> None:
    with base.session_scope() as s:
        s.execute(text("UPDATE alembic_version SET version_num = 'v9'"))
    with pytest.raises(base.OtherRevision, match="install the newer ctbatch"):
        act()
    assert migrate.current() == "v9"
    assert copies(settings) == []


def test_upgrade_that_fails_leaves_no_copy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(migrate, "head", lambda: "the next")
    monkeypatch.setattr(migrate.command, "upgrade", fail)
    with pytest.raises(OSError, match="the disk is full"):
        migrate.upgrade()
    assert copies(settings) == []


def test_up_to_date_database_is_not_copied(database: Settings) -> None:
    assert migrate.upgrade() is None


def test_another_revision_is_noticed(database: Settings) -> None:
    migrate.check_revision()
    with base.session_scope() as s:
        s.execute(text("UPDATE alembic_version SET version_num = 'v9'"))
    with pytest.raises(base.OtherRevision, match="revision v9"):
        migrate.check_revision()


@pytest.mark.parametrize("revision", ["0001", "0004"])
def test_database_of_a_development_version_is_refused_and_left_alone(database: Settings, revision: str) -> None:
    with base.session_scope() as s:
        s.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    with pytest.raises(base.OldDatabase, match=r"older than release 0\.1\.0"):
        migrate.upgrade()
    assert migrate.current() == revision


def test_database_that_lacks_a_column_is_refused_and_left_alone(database: Settings) -> None:
    with base.session_scope() as s:
        s.execute(text("ALTER TABLE upload DROP COLUMN dicomdirs"))
    with pytest.raises(base.OldDatabase, match=r"older than release 0\.1\.0"):
        migrate.upgrade()
    assert migrate.current() == migrate.head()


def test_every_column_of_a_hash_or_of_json_says_whether_it_names_files() -> None:
    """The reaper deletes what no marked column names."""
    unmarked = [
        f"{table.name}.{column.name}"
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, JSON) or column.name.endswith(("sha256", "hash"))
        if column.info not in (FILE, NO_FILE)
    ]
    assert unmarked == []
