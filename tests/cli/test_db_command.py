"""`ctbatch db`, and what the doctor says of a database: copies, restored ones, damage, and other revisions."""

import fcntl
import json
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.builders.commands import Result

Operate = Callable[..., Result]


@pytest.fixture
def home(ctbatch: Operate, tmp_path: Path) -> Path:
    """A home with a database that has one user, ann."""
    assert ctbatch("db", "upgrade").returncode == 0
    assert ctbatch("users", "add", "ann", "--no-password").returncode == 0
    return tmp_path / "home"


def users(ctbatch: Operate) -> list[str]:
    return [user["name"] for user in json.loads(ctbatch("users", "ls", "--json").stdout)]


def database_finding(ctbatch: Operate) -> tuple[str, str]:
    """What the doctor says of the database: state and detail."""
    findings = json.loads(ctbatch("doctor", "--json").stdout)
    [(state, detail)] = [(one["state"], one["detail"]) for one in findings if one["check"] == "database"]
    return state, detail


def test_database_is_backed_up_and_restored(ctbatch: Operate, home: Path, tmp_path: Path) -> None:
    assert ctbatch("db", "backup", "copy.db").returncode == 0
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert ctbatch("users", "add", "bea", "--no-password").returncode == 0
    restored = ctbatch("db", "restore", "copy.db", "--json")
    assert restored.returncode == 0, restored.stderr
    assert users(ctbatch) == ["ann"]
    assert Path(json.loads(restored.stdout)["replaced"]).parent == home
    again = ctbatch("db", "backup", "copy.db")
    assert (again.returncode, again.stderr) == (1, "Error: copy.db exists; choose another name\n")


def test_backup_of_nothing_makes_no_file(ctbatch: Operate, tmp_path: Path) -> None:
    assert ctbatch("db", "backup", "copy.db").returncode == 1
    assert list(tmp_path.rglob("*.db")) == []


def test_backup_of_postgresql_names_its_program(ctbatch: Operate) -> None:
    refused = ctbatch("db", "backup", "copy.db", env={"DATABASE_URL": "postgresql://ctbatch@127.0.0.1:1/ctbatch"})
    assert (refused.returncode, "pg_dump" in refused.stderr) == (1, True)


def test_nothing_is_restored_while_up_runs(ctbatch: Operate, home: Path) -> None:
    assert ctbatch("db", "backup", "copy.db").returncode == 0
    (home / "run").mkdir(exist_ok=True)
    with (home / "run" / "up.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ctbatch("db", "restore", "copy.db").returncode == 4
    assert ctbatch("db", "restore", "copy.db").returncode == 0


def test_doctor_sees_a_damaged_database(ctbatch: Operate, home: Path) -> None:
    assert database_finding(ctbatch)[0] == "ok"
    with closing(sqlite3.connect(home / "ctbatch.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'slice' LIMIT 1").fetchone()[0]
    with (home / "ctbatch.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    state, detail = database_finding(ctbatch)
    assert (state, "ctbatch db restore" in detail) == ("fail", True)


def test_newer_database_is_not_to_be_upgraded(ctbatch: Operate, home: Path) -> None:
    with closing(sqlite3.connect(home / "ctbatch.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9'")
        connection.commit()
    for words in (("db", "upgrade"), ("db", "current"), ("files", "reap")):
        refused = ctbatch(*words)
        assert refused.returncode == 4
        assert "install the newer ctbatch" in refused.stderr
        assert "ctbatch db upgrade" not in refused.stderr
    state, detail = database_finding(ctbatch)
    assert (state, "install the newer ctbatch" in detail) == ("fail", True)
    assert list(home.glob("ctbatch.db.*")) == []
