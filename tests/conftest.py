"""What all tests share: settings in a temporary folder, both databases, people, and a fake model version."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from argon2 import PasswordHasher
from sqlalchemy import create_engine, text

from db import database as base
from db import migrate
from db.access import accounts
from db.access.accounts import create_user
from db.database import session_scope
from db.models import ModelVersion, User
from db.settings import Settings
from tests.builders.networks import small_resnet
from tests.builders.servers import PostgresServer, postgres_binaries
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
        "CELERY_BROKER_URL": f"redis+socket://{home / 'no-broker.sock'}",
    }
    return Settings(**(defaults | values))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite database, to be copied: migrating takes longer than most tests."""
    values = make_settings(tmp_path_factory.mktemp("migrated"))
    base.use(values)
    migrate.upgrade()
    base.get_engine().dispose()
    return values.home / "ctbatch.db"


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A fresh, migrated SQLite database and an empty storage, in use for this test."""
    with fresh_database(request, "sqlite", tmp_path / "home") as values:
        yield values


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL server of this test session; gives its URL without a database's name."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server binaries are not installed (Debian: postgresql)")
    # Not in pytest's own folder: each session of pytest that starts closes that to all users but its own.
    with tempfile.TemporaryDirectory(prefix="ctbatch-postgres-") as name:
        server = PostgresServer(Path(name), binaries)
        server.start()
        yield server.url
        server.stop()


@contextmanager
def _new_postgres(server: str, *, template: str = "template1") -> Iterator[str]:
    """The URL of a new PostgreSQL database, a copy of another; it is dropped afterwards."""
    name = f"test_{uuid4().hex}"
    admin = create_engine(
        server.replace("postgresql://", "postgresql+psycopg://") + "postgres", isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield server + name
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new, empty PostgreSQL database, dropped afterwards."""
    with _new_postgres(postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a migrated, empty PostgreSQL database, to be copied. Nobody may be connected to it."""
    with _new_postgres(postgres_server) as url:
        base.use(make_settings(tmp_path_factory.mktemp("migrated-postgres"), DATABASE_URL=url))
        migrate.upgrade()
        base.get_engine().dispose()
        yield url.rpartition("/")[2]


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
            migrated: Path = request.getfixturevalue("migrated")
            home.mkdir(mode=0o700)
            shutil.copyfile(migrated, home / "ctbatch.db")
            settings = make_settings(home)
        else:
            server, template = (request.getfixturevalue(name) for name in ("postgres_server", "migrated_postgres"))
            settings = make_settings(home, DATABASE_URL=stack.enter_context(_new_postgres(server, template=template)))
        base.use(settings)
        yield settings
        base.get_engine().dispose()


@pytest.fixture
def champion(database: Settings) -> ModelVersion:
    """A champion in the database of this test."""
    return add_champion(database.home)


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
