"""What all tests share: settings in a temporary folder, both databases, people, and a fake model version."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine, create_engine, text

from db import database as base
from db import migrate
from db.access import accounts
from db.access.accounts import create_user
from db.database import read_scope, session_scope
from db.models import ModelVersion, User
from db.registry import champions
from db.settings import Settings
from tests.builders.networks import small_resnet
from tests.builders.servers import running_postgres
from tests.builders.versions import add_champion

# A shell that starts the tests in the background has SIGINT ignored, and every process below would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


SQL_ON_BOTH = ("tests/db/ledger/", "tests/db/test_")
LARGE_JOBS = "tests/db/ledger/test_large_jobs.py"
LONG_FILES = ("test_engines.py", "test_predicting.py", "test_proof.py", "test_fit.py", "test_up.py")


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first, so that at the end no process waits long for another.

    Tests that run on both databases are fast on SQLite alone, except those of the ledger and of the database itself.
    """
    for item in items:
        is_of_sql = item.nodeid.startswith(SQL_ON_BOTH) and not item.nodeid.startswith(LARGE_JOBS)
        if "postgresql" in item.nodeid and not is_of_sql:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.path.name not in LONG_FILES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run one process more than there are cores: many tests wait for processes that they started."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give a file's tests to one process, and all files that need TensorFlow to one, since it takes long to load.

    The files of the engines share a package that takes long to build. pytest-xdist 3.8.0 ignores its own marks for this
    with pytest 9.2.0.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "tensorflow" if path.startswith(("tests/worker/engines/", "tests/training/")) else path

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def real_password_hasher() -> Iterator[PasswordHasher]:
    """Hash passwords with little memory and time: at full strength this took a quarter of the web tests' time.

    Yields the hasher that the product uses.
    """
    real = accounts.password_hasher
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "password_hasher", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield real


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_the_developer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the developer's own home, database and settings out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("CTBATCH_")]:
            patch.delenv(name)
        for name in ("DATABASE_URL", "CELERY_BROKER_URL"):
            patch.delenv(name, raising=False)
        patch.setenv("CTBATCH_HOME", str(tmp_path_factory.mktemp("no-home")))
        yield


def make_settings(home: Path, **values: object) -> Settings:
    """Settings for a test: everything in `home`, no broker (hints are lost, which the ledger allows)."""
    defaults = {
        "home": home,
        "secret_key": "a test's secret",
        "engine": "fake",
        "reserve_bytes": 0,  # however little disk the machine of the tests has
        "DATABASE_URL": f"sqlite:///{home / 'ctbatch.db'}",
        "CELERY_BROKER_URL": "redis+socket:///nonexistent/broker.sock",
    }
    return Settings(**(defaults | values))  # type: ignore[arg-type]


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Each SQL statement is compiled once in this session, not once in each test, which took a quarter of the time."""
    donors: dict[str, Engine] = {}
    compiled: dict[Any, Any] = {}
    make_engine = base.make_engine

    def make(settings: Settings, *, migrating: bool = False) -> Engine:
        engine = make_engine(settings, migrating=migrating)
        donor = donors.setdefault(engine.dialect.name, engine)
        if hasattr(donor.dialect, "server_version_info"):  # it has connected
            engine.dialect = donor.dialect
            engine.update_execution_options(compiled_cache=compiled)
        else:
            donors[engine.dialect.name] = engine
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "make_engine", make)
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a migrated, empty SQLite database, to be copied: migrating takes longer than most tests."""
    values = make_settings(tmp_path_factory.mktemp("migrated"))
    base.use(values)
    migrate.upgrade()
    base.get_engine().dispose()
    return values.home


@pytest.fixture(scope="session")
def migrated_with_champion(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same home with a champion, to be copied."""
    home = tmp_path_factory.mktemp("champion") / "home"
    shutil.copytree(migrated, home)
    base.use(make_settings(home))
    add_champion(home)
    base.get_engine().dispose()
    return home


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A fresh, migrated SQLite database and an empty storage, in use for this test."""
    with fresh_database(request, "sqlite", tmp_path / "home") as values:
        yield values


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL server of this test session; gives its URL without a database's name."""
    with running_postgres() as server:
        yield server.url


@contextmanager
def _new_postgres(server: str) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database, which is dropped afterwards."""
    name = f"test_{uuid4().hex}"
    admin = create_engine(
        server.replace("postgresql://", "postgresql+psycopg://") + "postgres", isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server + name
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database, dropped afterwards."""
    with _new_postgres(postgres_server) as url:
        yield url


SCHEMA = """
    SELECT string_agg(line, ',' ORDER BY line) FROM (
        SELECT table_name || '.' || column_name || data_type AS line FROM information_schema.columns
            WHERE table_schema = 'public'
        UNION ALL SELECT indexname FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT conname FROM pg_constraint
        UNION ALL SELECT version_num FROM alembic_version
    ) AS lines"""
OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()"""
KEEP = """
    DO $$ DECLARE name text; BEGIN
        CREATE SCHEMA migrated;
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'
            LOOP EXECUTE format('CREATE TABLE migrated.%1$I AS TABLE public.%1$I', name); END LOOP;
    END $$"""
EMPTY = """
    DO $$ DECLARE name text; BEGIN
        SET session_replication_role = replica;  -- no foreign keys meanwhile
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'migrated' LOOP
            EXECUTE format('DELETE FROM public.%I', name);
            EXECUTE format('INSERT INTO public.%1$I SELECT * FROM migrated.%1$I', name);
        END LOOP;
        SET session_replication_role = origin;
        FOR name IN SELECT sequencename FROM pg_sequences WHERE schemaname = 'public'
            LOOP EXECUTE format('ALTER SEQUENCE %I RESTART', name); END LOOP;
    END $$"""


class PostgresDatabases:
    """Lends a migrated PostgreSQL database to one test after another, with the rows of the migrations only.

    To make a database takes 30 times as long as to empty one.
    """

    def __init__(self, server: str, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._made = ExitStack()
        self._free: list[tuple[str, str]] = []  # the URL and the schema of each that no test uses

    def _make(self) -> tuple[str, str]:
        url = self._made.enter_context(_new_postgres(self._server))
        base.use(make_settings(self._folder, DATABASE_URL=url))
        migrate.upgrade()
        with base.get_engine().begin() as connection:
            connection.execute(text(KEEP))
            return url, connection.scalar(text(SCHEMA)) or ""

    @contextmanager
    def lend(self) -> Iterator[str]:
        url, schema = self._free.pop() if self._free else self._make()
        yield url
        base.use(make_settings(self._folder, DATABASE_URL=url))
        base.get_engine().dispose()
        with base.get_engine().begin() as connection:
            connection.execute(text(OTHERS))
            if connection.scalar(text(SCHEMA)) == schema:
                connection.execute(text(EMPTY))
                self._free.append((url, schema))

    def close(self) -> None:
        self._made.close()


@pytest.fixture(scope="session")
def postgres_databases(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresDatabases]:
    databases = PostgresDatabases(postgres_server, tmp_path_factory.mktemp("postgres"))
    yield databases
    databases.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """The same test on both databases, migrated and empty."""
    with fresh_database(request, request.param, tmp_path / "home") as settings:
        yield settings


@contextmanager
def fresh_database(request: pytest.FixtureRequest, kind: str, home: Path) -> Iterator[Settings]:
    """A migrated, empty database of a kind (sqlite, postgresql) and an empty storage, in use meanwhile."""
    with ExitStack() as stack:
        if kind == "sqlite":
            has_champion = "champion" in request.fixturenames
            template: Path = request.getfixturevalue("migrated_with_champion" if has_champion else "migrated")
            shutil.copytree(template, home)
            settings = make_settings(home)
        else:
            databases: PostgresDatabases = request.getfixturevalue("postgres_databases")
            settings = make_settings(home, DATABASE_URL=stack.enter_context(databases.lend()))
        base.use(settings)
        yield settings
        base.get_engine().dispose()


@pytest.fixture
def champion(database: Settings) -> ModelVersion:
    """A champion in the database of this test."""
    return the_champion(database.home)


def the_champion(home: Path) -> ModelVersion:
    """The champion in the database in use. A PostgreSQL database has none yet."""
    with read_scope() as s:
        version = champions.champion(s)
    return version or add_champion(home)


@pytest.fixture
def new_champion(database: Settings) -> Callable[[str], ModelVersion]:
    """Makes and promotes a fake model version of a name."""
    return lambda name: add_champion(database.home, name)


@pytest.fixture
def ann(database: Settings) -> User:
    """Somebody who submits jobs."""
    with session_scope() as s:
        return create_user(s, "ann", None)


@pytest.fixture
def bob(database: Settings) -> User:
    """Somebody else who does."""
    with session_scope() as s:
        return create_user(s, "bob", None)


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are built on a small ResNet in this test; see `tests.builders.networks`."""
    import keras

    monkeypatch.setattr(keras.applications, "ResNet50", small_resnet)
