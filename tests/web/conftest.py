"""The web application on a real database and real storage, and fixtures for who uses it."""

import pytest
from apiflask import APIFlask
from jinja2 import FileSystemBytecodeCache

from db.access import accounts
from db.database import session_scope
from db.models import ModelVersion, User
from db.settings import Settings
from tests.web.actors import PASSWORD, Api, Browser, WorkerPart
from web.app import create_app


@pytest.fixture
def database(settings: Settings) -> Settings:
    """These tests are about the web: one database, SQLite, is enough for most of them."""
    return settings


@pytest.fixture(scope="session")
def compiled_templates(tmp_path_factory: pytest.TempPathFactory) -> FileSystemBytecodeCache:
    """Templates that were compiled for an earlier test: each test has an application of its own."""
    return FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))


@pytest.fixture
def app(settings: Settings, champion: ModelVersion, compiled_templates: FileSystemBytecodeCache) -> APIFlask:
    """The application as the server runs it, with a champion."""
    app = create_app(settings)
    app.jinja_env.bytecode_cache = compiled_templates
    return app


@pytest.fixture
def ann(settings: Settings) -> User:
    """Somebody with a password."""
    with session_scope() as s:
        return accounts.create_user(s, "ann", PASSWORD)


@pytest.fixture
def root(settings: Settings) -> User:
    """An admin with a password."""
    with session_scope() as s:
        return accounts.create_user(s, "root", PASSWORD, is_admin=True)


@pytest.fixture
def api(app: APIFlask, ann: User) -> Api:
    """Ann's program."""
    return Api(app, ann)


@pytest.fixture
def admin(app: APIFlask, root: User) -> Api:
    """The admin's program."""
    return Api(app, root)


@pytest.fixture
def stranger(app: APIFlask, bob: User) -> Api:
    """Bob's program."""
    return Api(app, bob)


@pytest.fixture
def browser(app: APIFlask) -> Browser:
    """Nobody's browser yet."""
    return Browser(app)


@pytest.fixture
def anns_browser(browser: Browser, ann: User) -> Browser:
    """A browser in which Ann has signed in."""
    assert browser.sign_in("ann").status_code == 303
    return browser


@pytest.fixture
def roots_browser(browser: Browser, root: User) -> Browser:
    """A browser in which the admin has signed in."""
    assert browser.sign_in("root").status_code == 303
    return browser


@pytest.fixture
def worker() -> WorkerPart:
    """A worker's part, to be played by the test."""
    return WorkerPart()
