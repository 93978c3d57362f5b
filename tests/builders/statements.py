"""The SQL statements that a test makes the database carry out, and those that it refuses."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

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


@contextmanager
def refused_writes() -> Iterator[None]:
    """Let the database refuse to write meanwhile, as if its disk were full. It can still be read."""

    def refuse(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            raise OperationalError(statement, None, sqlite3.OperationalError("database or disk is full"))

    event.listen(get_engine(), "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(get_engine(), "before_cursor_execute", refuse)


def locked_at_first(call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that finds the database locked by another transaction the first time."""
    locked = sqlite3.OperationalError("database is locked")
    locked.sqlite_errorcode = sqlite3.SQLITE_BUSY
    errors = [OperationalError("UPDATE", None, locked)]

    def act(*values: Any, **named: Any) -> Any:
        if errors:
            raise errors.pop()
        return call(*values, **named)

    return act
