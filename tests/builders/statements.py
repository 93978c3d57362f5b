"""The SQL statements that a test makes the database carry out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from db.database import get_engine


@contextmanager
def recorded_statements() -> Iterator[list[str]]:
    """Fill a list with the statements that reach the database meanwhile."""
    statements: list[str] = []

    def record(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(get_engine(), "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(get_engine(), "before_cursor_execute", record)
