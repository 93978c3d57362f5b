"""Migrations make exactly the tables that the models describe, on both databases."""

from db import migrate
from db.settings import Settings


def test_migrations_and_models_agree(database: Settings) -> None:
    assert migrate.current() == migrate.head()
    assert migrate.differences() == []


def test_upgrading_twice_changes_nothing(database: Settings) -> None:
    migrate.upgrade()
    assert migrate.differences() == []
