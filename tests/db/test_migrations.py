"""Migrations make exactly the tables that the models describe, on both databases."""

from pathlib import Path

from alembic import command
from sqlalchemy import text

from db import database as base
from db import migrate
from db.registry import champions
from db.settings import Settings
from tests.conftest import make_settings


def test_migrations_and_models_agree(database: Settings) -> None:
    assert migrate.current() == migrate.head()
    assert migrate.differences() == []


def test_upgrading_twice_changes_nothing(database: Settings) -> None:
    migrate.upgrade()
    assert migrate.differences() == []


def test_upgrade_keeps_versions_and_their_promotions(tmp_path: Path) -> None:
    """On SQLite a table that is made anew must not lose, or trip over, the rows that point to it."""
    base.use(make_settings(tmp_path / "home"))
    command.upgrade(migrate._config(), "0003")
    row = dict.fromkeys(("note", "recipe"), "") | {"name": "lung", "number": 1, "threshold": 0.5, "temperature": 1}
    objects = dict.fromkeys(("files", "metrics", "parity", "ood", "facts"), "{}")
    values = {**row, **objects, "id": 1, "created_at": "2026-01-01 00:00:00"}
    with base.session_scope() as s:
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        s.execute(text(f"INSERT INTO model_version ({names}) VALUES ({marks})"), values)
        promoted = "INSERT INTO promotion (id, model_version_id, reason, gate, created_at) VALUES (1, 1, '', '{}', :at)"
        s.execute(text(promoted), {"at": "2026-01-01 00:00:00"})
    migrate.upgrade()
    with base.read_scope() as s:
        champion = champions.champion(s)
        assert champion is not None
        assert (champion.label, champion.calibration) == ("lung/1", {})
