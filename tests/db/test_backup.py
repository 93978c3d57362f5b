"""A backup of SQLite ends while others write, and a restored one is what ctbatch then uses."""

import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import text

from db import backup, migrate
from db import database as base
from db.access.accounts import create_user
from db.database import session_scope
from db.models import User
from db.settings import Settings

PROJECT = Path(__file__).parents[2]

# Another process: it opens the database, does something, and says so. Killed, it leaves its log behind.
OTHER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1])
connection.execute(sys.argv[2]).fetchall()
connection.commit()
print("done", flush=True)
time.sleep(600)
"""

IDLE_WORKER = """
import os, time
from celery import signals
from worker.process import prepare

prepare("test")
if os.fork() == 0:
    signals.worker_process_init.send(None)
    print("done", flush=True)
    time.sleep(600)
os.wait()
"""

IDLE_SERVER = """
import time
import web.asgi
print("done", flush=True)
time.sleep(600)
"""


def another_process(database: Path, statement: str) -> AbstractContextManager[None]:
    """A process that has carried out a statement, and has the database open. In the end it is killed."""
    return started(OTHER, str(database), statement, home=database.parent)


@contextmanager
def started(program: str, *words: str, home: Path) -> Iterator[None]:
    """A process that has written "done". In the end it is killed."""
    command, environ = [sys.executable, "-c", program, *words], os.environ | {"CTBATCH_HOME": str(home)}
    with subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            yield
        finally:
            process.kill()


def add_user(name: str) -> None:
    with base.session_scope() as s:
        create_user(s, name, None)


def users() -> list[str]:
    with base.read_scope() as s:
        return list(s.scalars(text("SELECT name FROM user_account ORDER BY name")))


@pytest.fixture
def copy(settings: Settings, tmp_path: Path) -> Path:
    """A backup with one user, ann. The database in use then has bea too."""
    migrate.upgrade()  # switches to a write-ahead log
    add_user("ann")
    backup.copy_database(tmp_path / "copy.db")
    add_user("bea")
    return tmp_path / "copy.db"


def test_copy_is_for_its_user_alone(settings: Settings, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        backup.copy_database(tmp_path / "copy.db")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["copy.db"]


def test_copy_ends_while_others_commit(settings: Settings, tmp_path: Path) -> None:
    migrate.upgrade()
    begun, stop = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            add_user(f"user{number}")
            number += 1
            begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert begun.wait(30)
        backup.copy_database(tmp_path / "copy.db")
    finally:
        stop.set()
        writer.join()
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_existing_file_is_not_replaced(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("something else")
    with pytest.raises(backup.BackupRefused, match="exists"):
        backup.copy_database(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "something else"


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_postgresql_has_its_own_programs(database: Settings, tmp_path: Path) -> None:
    for act in (backup.copy_database, partial(backup.restore_database, check_revision=migrate.check_known)):
        with pytest.raises(backup.BackupRefused, match="pg_dump"):
            act(tmp_path / "copy.db")


@pytest.mark.skipif(shutil.which("pg_restore") is None, reason="PostgreSQL's programs for backups are not installed")
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_documented_commands_copy_postgresql(database: Settings, ann: User, postgres_url: str, tmp_path: Path) -> None:
    docs = (PROJECT / "docs" / "operations.md").read_text()
    for program, url in (("pg_dump", database.database_url), ("pg_restore", postgres_url)):
        command = re.search(rf"`({program} [^`]+)`", docs)
        assert command is not None
        words = command[1].replace("FILE", str(tmp_path / "copy"))
        subprocess.run(words, shell=True, check=True, env=os.environ | {"DATABASE_URL": url})
    base.use(database.model_copy(update={"database_url": postgres_url}))
    migrate.check_revision()
    with session_scope() as s:
        assert s.get_one(User, ann.id).name == "ann"
    base.get_engine().dispose()


def test_restored_database_is_as_at_the_time_of_the_copy(settings: Settings, copy: Path) -> None:
    replaced = backup.restore_database(copy, migrate.check_known)
    assert users() == ["ann"]
    assert replaced is not None
    with closing(sqlite3.connect(replaced)) as connection:
        names = connection.execute("SELECT name FROM user_account ORDER BY name").fetchall()
    assert names == [("ann",), ("bea",)]


def test_log_of_a_killed_process_does_not_come_into_the_restored_database(settings: Settings, copy: Path) -> None:
    database = settings.home / "ctbatch.db"
    base.get_engine().dispose()
    with another_process(database, "UPDATE user_account SET name = 'zoe' WHERE name = 'bea'"):
        pass
    assert Path(f"{database}-wal").stat().st_size > 0
    replaced = backup.restore_database(copy, migrate.check_known)
    assert users() == ["ann"]
    with base.read_scope() as s:
        assert s.scalar(text("PRAGMA integrity_check")) == "ok"
    with closing(sqlite3.connect(str(replaced))) as connection:
        assert connection.execute("SELECT name FROM user_account WHERE name > 'ann'").fetchall() == [("zoe",)]


def test_database_is_not_replaced_while_another_process_has_it_open(settings: Settings, copy: Path) -> None:
    with another_process(settings.home / "ctbatch.db", "SELECT * FROM user_account"):
        with pytest.raises(backup.BackupRefused, match="stop"):
            backup.restore_database(copy, migrate.check_known)
        assert users() == ["ann", "bea"]
    backup.restore_database(copy, migrate.check_known)
    assert users() == ["ann"]


@pytest.mark.parametrize("program", [IDLE_WORKER, IDLE_SERVER], ids=["worker", "server"])
def test_database_is_not_replaced_under_an_idle_process(settings: Settings, copy: Path, program: str) -> None:
    base.get_engine().dispose()
    with started(program, home=settings.home), pytest.raises(backup.BackupRefused, match="stop"):
        backup.restore_database(copy, migrate.check_known)
    assert users() == ["ann", "bea"]


def test_copy_of_a_newer_database_is_refused(settings: Settings, copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9'")
    with pytest.raises(base.OtherRevision, match="v9"):
        backup.restore_database(copy, migrate.check_known)
    assert users() == ["ann", "bea"]


def test_damaged_database_is_replaced(settings: Settings, copy: Path) -> None:
    base.get_engine().dispose()
    (settings.home / "ctbatch.db").write_bytes(b"no database")
    backup.restore_database(copy, migrate.check_known)
    assert users() == ["ann"]


def test_missing_database_is_restored_without_the_log_that_was_left(settings: Settings, copy: Path) -> None:
    base.get_engine().dispose()
    (settings.home / "ctbatch.db").unlink()
    (settings.home / "ctbatch.db-wal").write_bytes(b"left over")
    assert backup.restore_database(copy, migrate.check_known) is None
    assert users() == ["ann"]


def test_old_copy_with_a_log_of_its_own_is_restored_with_it(settings: Settings, copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    with another_process(copy, "UPDATE user_account SET name = 'zoe'"):
        pass
    backup.restore_database(copy, migrate.check_known)
    assert users() == ["zoe"]


@pytest.mark.parametrize("kind", ["text", "damaged", "foreign", "itself"])
def test_what_is_not_a_sound_copy_is_refused(settings: Settings, copy: Path, kind: str) -> None:
    if kind == "text":
        copy.write_text("no database")
    elif kind == "damaged":
        with copy.open("r+b") as file:
            file.seek(8192)
            file.write(os.urandom(200_000))
    elif kind == "foreign":
        copy.unlink()
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("CREATE TABLE song (name TEXT)")
    else:
        copy = settings.home / "ctbatch.db"
    with pytest.raises(backup.BackupRefused):
        backup.restore_database(copy, migrate.check_known)
    assert users() == ["ann", "bea"]
    assert list(settings.home.glob(".ctbatch.db*")) == []
