"""Errors of PostgreSQL that pass, such as those of a standby: a transaction fails, and can be carried out again."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from db.database import is_away, read_scope, session_scope
from worker import claimed
from worker.heartbeat import Heartbeat

pytestmark = [
    pytest.mark.parametrize("database", ["postgresql"], indirect=True),
    pytest.mark.usefixtures("database"),
]


def write_on_a_standby(s: Session) -> None:
    s.execute(text("SET TRANSACTION READ ONLY"))
    s.execute(text("UPDATE installation SET reread_at = now()"))


def idle_for_too_long(s: Session) -> None:
    s.execute(text("SET LOCAL idle_in_transaction_session_timeout = 1"))
    for seconds in (0.1, 1.0, 10.0):
        time.sleep(seconds)
        s.execute(text("SELECT 1"))


FAULTS = [write_on_a_standby, idle_for_too_long]  # tests/web/test_standby.py has a real standby, which refuses BEGIN


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_transaction_that_a_standby_refuses_can_be_carried_out_again(fault: Callable[[Session], None]) -> None:
    with session_scope() as s:
        connection = s.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(OperationalError) as raised, session_scope() as s:
        fault(s)
    assert is_away(raised.value)
    with session_scope() as s:
        assert s.scalar(text("SELECT pg_backend_pid()")) != connection, "another server may be the primary now"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_worker_waits_for_the_primary(fault: Callable[[Session], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claimed, "WAIT_SECONDS", 0.0)
    faults = [fault]

    def record() -> str:
        with session_scope() as s:
            if faults:
                faults.pop()(s)
        return "recorded"

    class Alive(Heartbeat):
        def __init__(self) -> None: ...
        def progress(self) -> None: ...

    assert claimed.patiently(Alive(), record) == "recorded"


@pytest.mark.parametrize(
    ("scope", "statement"),
    [
        (read_scope, "SELECT 1 FROM nowhere"),
        (read_scope, "UPDATE installation SET reread_at = now()"),
        (session_scope, "SELECT count(*) FROM installation FOR UPDATE"),
    ],
    ids=["no-table", "write-in-read-scope", "not-supported"],
)
def test_fault_of_a_statement_is_not_waited_for(
    scope: Callable[[], AbstractContextManager[Session]], statement: str
) -> None:
    with session_scope() as s:
        connection = s.scalar(text("SELECT pg_backend_pid()"))
    with pytest.raises(DBAPIError) as raised, scope() as s:
        s.execute(text(statement))
    assert not isinstance(raised.value, OperationalError)
    with session_scope() as s:
        assert s.scalar(text("SELECT pg_backend_pid()")) == connection
