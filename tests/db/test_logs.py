"""Logs: an exception is logged with its stack, and without any value that its message may quote."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError

from db import logs
from db.database import session_scope
from db.models import User
from db.settings import Settings

NAME = "Doe^Jane"


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Leave the logging of other tests as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


class Number(BaseModel):
    """Something that a name is not."""

    number: int


def look_up() -> None:
    try:
        {}[NAME]
    except KeyError as error:
        raise RuntimeError("the table has no such row") from error


def insert_twice() -> None:
    with session_scope() as s:
        s.add_all([User(name=NAME), User(name=NAME)])
        s.flush()


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (look_up, ["KeyError", "RuntimeError: the table has no such row", "look_up"]),
        (lambda: int(NAME), ["ValueError"]),
        (lambda: Number(number=NAME), ["ValidationError"]),
        (lambda: Path(f"/nowhere/{NAME}").read_text(), ["FileNotFoundError: No such file or directory"]),
        (insert_twice, ["IntegrityError", "insert_twice"]),
    ],
)
def test_exception_is_logged_without_the_values_of_its_message(
    database: Settings, capsys: pytest.CaptureFixture[str], action: Callable[[], object], told: list[str]
) -> None:
    logs.configure("web")
    try:
        action()
    except Exception:
        logging.getLogger("a").exception("it failed")
    line = capsys.readouterr().out
    assert NAME not in line
    assert [words for words in (*told, "it failed") if words not in line] == []


def test_constraint_that_postgresql_names_is_logged(database: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("web")
    with pytest.raises(IntegrityError) as caught:
        insert_twice()
    logging.getLogger("a").error("it failed", exc_info=caught.value)
    assert ("uq_user_account_name" if "postgresql" in database.database else "user_account.name") in (
        capsys.readouterr().out
    )


def test_failed_task_is_logged_without_its_data(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("ingest")
    context = {"name": "worker.ingest", "id": "1", "exc": f"KeyError('{NAME}')", "args": f"('{NAME}',)", "kwargs": "{}"}
    try:
        look_up()
    except RuntimeError:
        logging.getLogger("celery.app.trace").exception(
            "Task %(name)s[%(id)s] raised unexpected: %(exc)s", context, extra={"data": context}
        )
    line = capsys.readouterr().out
    assert NAME not in line
    assert "task worker.ingest ended with RuntimeError" in line
