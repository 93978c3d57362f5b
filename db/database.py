"""The database engine, and the two kinds of transaction."""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import NullPool

from db.settings import Settings, get_settings

T = TypeVar("T")
log = logging.getLogger(__name__)

SQLITE_BUSY_MS = 30_000
_BUSY_MS = "busy_ms"  # the execution option of a connection that waits shorter
PG_OPTIONS = "-c statement_timeout=120000 -c lock_timeout=30000 -c idle_in_transaction_session_timeout=120000"
# Seconds and milliseconds after which a silent server counts as unreachable. The system waits for hours.
PG_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}

TOO_SLOW = "57014"  # PostgreSQL: a statement took longer than statement_timeout
BROKEN_OFF = {"40P01", "40001", "55P03"}  # PostgreSQL: deadlock, serialization failure, lock timeout
TRIES = 3
# PostgreSQL: the server is a standby and refuses to write, or to begin a transaction that may write; a transaction
# idled for too long. psycopg raises no OperationalError for these. A standby comes first after some failovers.
PG_REFUSES = ("25006", "0A000", "25P03")
# no connection; no disk, memory or connections left; shut down, starting
PG_AWAY = ("08", "53", "57P", *PG_REFUSES, *BROKEN_OFF)
SQLITE_AWAY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


class OldDatabase(Exception):
    """The database was made by a development version before 0.1.0, which had other tables."""


class OtherRevision(Exception):
    """The database is not at the revision that this program needs. The message says what to do."""


def make_engine(settings: Settings, *, migrating: bool = False) -> Engine:
    """Return a new engine for the database of the settings, with the options that the ledger needs.

    `migrating`: statements have no time limit, and the pool does not keep closed connections.
    """
    url = settings.database
    if migrating and not url.startswith("sqlite"):
        return create_engine(url, hide_parameters=True, poolclass=NullPool)
    if not url.startswith("sqlite"):
        engine = create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,
            pool_size=10,
            max_overflow=10,
            connect_args=PG_CONNECTION | {"options": PG_OPTIONS},
        )
        event.listen(engine, "handle_error", _refused)
        return engine
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # hide_parameters: an exception in a log must not contain a file name.
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": SQLITE_BUSY_MS / 1000})
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _refused(context: ExceptionContext) -> OperationalError | None:
    """Return the OperationalError to raise if the server refuses for now, or None for another error.

    All connections are dropped, because a new one may lead to the present primary. A write in `read_scope` and a
    statement that PostgreSQL does not support have the same states, but are faults of the program.
    """
    error = context.original_exception
    state = getattr(error, "sqlstate", None)
    if state not in PG_REFUSES or _is_fault(context, state):
        return None
    context.is_disconnect = True
    return OperationalError(context.statement, None, error, hide_parameters=True)


def _is_fault(context: ExceptionContext, state: str) -> bool:
    connection = context.connection
    if connection is None or state not in ("25006", "0A000"):
        return False
    if state == "25006":
        return bool(connection.get_execution_options().get("postgresql_readonly"))
    pg_connection: Any = connection.connection.dbapi_connection
    is_begun = pg_connection.info.transaction_status.name != "IDLE"  # so the server did not refuse BEGIN
    return is_begun and not (context.statement or "").startswith("SET TRANSACTION ")


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # _sqlite_begin starts transactions, not the driver
    for pragma in (
        f"busy_timeout={SQLITE_BUSY_MS}",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",  # a name that is removed must not stay in the file, as it may with some builds of SQLite
        "cache_size=-65536",  # 64 MiB
    ):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    """Take the write lock at once. A deferred BEGIN would fail later, with "database is locked"."""
    options = connection.get_execution_options()
    if options.get("read_only", False):
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA busy_timeout={options.get(_BUSY_MS, SQLITE_BUSY_MS)}")
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={SQLITE_BUSY_MS}")


_settings_in_use: Settings | None = None


def use(settings: Settings) -> None:
    """Let this process use these settings (for tests and `--home`). Drop connections to another database."""
    global _settings_in_use
    if get_engine.cache_info().currsize:
        get_engine().dispose()
    get_engine.cache_clear()
    _settings_in_use = settings


def current() -> Settings:
    """Return the settings in use: those given to `use`, or else those of the environment."""
    return _settings_in_use or get_settings()


@lru_cache(maxsize=1)
def get_engine() -> Engine:
    """Return this process's database engine, made at first use. After a fork, call `forget_connections()` first."""
    return make_engine(current())


def forget_connections() -> None:
    """Drop the connections that the parent process opened, but do not close them, because the parent uses them."""
    if get_engine.cache_info().currsize:
        get_engine().dispose(close=False)
    get_engine.cache_clear()


def keep_database_open() -> None:
    """Open a connection that stays in the pool, so that `ctbatch db restore` notices this process even if it is idle.

    Only an SQLite database that exists is opened. An error is left to the first work, which states it.
    """
    engine = get_engine()
    if engine.dialect.name == "sqlite" and Path(engine.url.database or "").is_file():
        with suppress(DBAPIError), read_scope() as s:
            s.execute(text("SELECT 1 FROM sqlite_master"))  # from here on SQLite holds its lock


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Call `action` after this transaction has committed. Do not call it if the transaction rolls back."""
    session.info.setdefault("after_commit", []).append(action)


def lock_row(session: Session, model: type[DeclarativeBase], row_id: int | str) -> None:
    """Lock a row, so that only one transaction at a time changes rows that depend on it, such as a dataset's splits.

    Rows that refer to it can still be added. SQLite needs no lock, because its writers queue at BEGIN.
    """
    table: Any = model
    session.execute(select(table.id).where(table.id == row_id).with_for_update(key_share=True, of=table))


def lift_time_limits(session: Session) -> None:
    """Let the statements of this transaction take as long as they need. SQLite has no such limits.

    Use it for a transaction that takes longer for a larger job. A time limit would end this transaction at each try.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


def lock_briefly(session: Session) -> None:
    """Let this transaction fail if it waits longer than a second for a lock. SQLite waits at BEGIN."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SET LOCAL lock_timeout = '1s'"))


def lock_table(session: Session, model: type[DeclarativeBase]) -> None:
    """Lock a table, so that only one transaction at a time adds rows to it.

    Use it if a new row depends on the newest one, for example the next number of a name, or the next champion. If you
    can lock a single row instead, use `lock_row`, which blocks fewer transactions. SQLite needs no lock.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f'LOCK TABLE "{model.__tablename__}" IN SHARE ROW EXCLUSIVE MODE'))


@contextmanager
def session_scope(*, patient: bool = True) -> Iterator[Session]:
    """Open a transaction that can write. Commit it at the end, and run the actions of `after_commit`.

    Roll it back on an exception. If not `patient`, raise OperationalError if another process keeps writing to SQLite
    for half a second.
    """
    engine = get_engine() if patient else get_engine().execution_options(**{_BUSY_MS: 500})
    with Session(engine, expire_on_commit=False) as session:
        with session.begin():
            yield session
        for action in session.info.pop("after_commit", ()):
            action()


def in_transaction(work: Callable[[Session], T]) -> T:
    """Return what `work` returns in a writing transaction.

    If the database aborts the transaction because of a conflict with another one, `work` is called again in a new
    transaction, at most TRIES times in all. Raises OperationalError after the last call, or at once if the database is
    unreachable.
    """
    for left in reversed(range(TRIES)):
        try:
            with session_scope() as session:
                return work(session)
        except OperationalError as error:
            if not (left and is_broken_off(error)):
                raise
            log.warning("transaction broken off, tried again", extra={"error": type(error.orig).__name__})
    raise AssertionError("unreachable")


def check_writable() -> None:
    """Raise OperationalError if the database can only be read, because PostgreSQL is a standby."""
    with get_engine().connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET TRANSACTION READ WRITE"))


def is_away(error: OperationalError) -> bool:
    """Return whether a transaction failed because the database is unavailable or busy, not because of its SQL."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return error.orig.sqlite_errorcode & 0xFF in SQLITE_AWAY
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(PG_AWAY)


def is_too_slow(error: Exception) -> bool:
    """Return whether the database ended a statement that took longer than its limit. It may do so each time."""
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == TOO_SLOW


def is_broken_off(error: OperationalError) -> bool:
    """Return whether a transaction failed because of a conflict with others, such as a deadlock or a lock timeout."""
    if isinstance(error.orig, sqlite3.OperationalError):
        return getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
    return getattr(error.orig, "sqlstate", None) in BROKEN_OFF


@contextmanager
def read_scope() -> Iterator[Session]:
    """Open a transaction that only reads. It takes no write lock, and keeps no changes."""
    engine = get_engine()
    options = {"read_only": True} if engine.dialect.name == "sqlite" else {"postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection, Session(connection) as session:
        yield session
