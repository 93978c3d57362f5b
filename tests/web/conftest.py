"""The web application on a real database and real storage, and fixtures for who uses it."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apiflask import APIFlask
from flask import Response, g, has_request_context, request
from sqlalchemy import event
from werkzeug.serving import make_server

from db import database as base
from db.access import accounts
from db.database import session_scope
from db.models import AuditEvent, ModelVersion, User
from db.settings import Settings
from tests.builders.files import png, zip_of
from tests.conftest import make_settings
from tests.web.actors import PASSWORD, Api, Browser, StrictClient, WorkerPart
from web.app import create_app
from web.security.auth import SAFE_METHODS

CHROMIUM = Path("/usr/bin/chromium")
WAIT = 15_000  # ms, for what a slow machine may take
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu"]


@pytest.fixture
def database(settings: Settings) -> Settings:
    """These tests are about the web: one database, SQLite, is enough for most of them."""
    return settings


@pytest.fixture(scope="session")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> APIFlask:
    """The application as the server runs it. To make it takes longer than most tests."""
    app = create_app(make_settings(tmp_path_factory.mktemp("app")))
    app.test_client_class = StrictClient
    app.after_request(_check_event)
    return app


def _check_event(response: Response) -> Response:
    """Fail if a request to the API changed something, and left no event in the audit trail."""
    is_change = response.status_code in (201, 202, 204) and request.method not in SAFE_METHODS
    if is_change and request.endpoint != "api_runs.send_weights" and not g.get("is_recorded"):
        raise AssertionError(f"{request.endpoint} left no event in the audit trail")
    return response


@event.listens_for(AuditEvent, "after_insert")
def _note_event(*_: object) -> None:
    if has_request_context():
        g.is_recorded = True


@pytest.fixture
def app(shared_app: APIFlask, settings: Settings, champion: ModelVersion) -> APIFlask:
    """The shared application on the database and the storage of this test, with a champion."""
    base.use(settings)
    return shared_app


@pytest.fixture
def own_app(settings: Settings, champion: ModelVersion) -> APIFlask:
    """An application of this test alone, for what it counts and keeps from request to request."""
    return create_app(settings)


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests of a file."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("Debian's chromium is not installed (/usr/bin/chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture
def address(app: APIFlask) -> Iterator[str]:
    """The application, served over HTTP by threads of this process."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Any]:
    """A page of a fresh profile. At the end: no error was logged, the CSP held, and no request left the origin."""
    context = chromium.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    faults: list[str] = []
    foreign: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else foreign.append(r.url))
    page.faults = faults
    yield page
    context.close()
    assert faults == []
    assert foreign == []


def with_session(page: Any, app: APIFlask, address: str, name: str) -> Any:
    """The page, with the cookie of somebody who signed in: by the form it takes a second."""
    browser = Browser(app)
    assert browser.sign_in(name).status_code == 303
    cookie = browser.client.get_cookie("ctbatch")
    page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": address}])
    return page


@pytest.fixture
def signed_in(page: Any, app: APIFlask, address: str, ann: User) -> Any:
    """A page on which Ann has signed in."""
    return with_session(page, app, address, "ann")


@pytest.fixture
def admin_page(page: Any, app: APIFlask, address: str, root: User) -> Any:
    """A page on which the admin has signed in."""
    return with_session(page, app, address, "root")


@pytest.fixture
def finished(api: Api, worker: WorkerPart) -> str:
    """A finished job of six slices, two of them positive, and one file that was rejected."""
    job_id: str = api.submit(("a.zip", zip_of({f"{i}.png": png(i) for i in range(7)}))).json["id"]
    worker.start()
    worker.read(6)
    worker.reject("notes.txt", "format")
    worker.finish_reading()
    worker.predict([0.9, 0.2, 0.1])
    return job_id


def sign_in_as_bob(page: Any, app: APIFlask, address: str) -> None:
    """Sign in as Bob in another tab."""
    with session_scope() as s:
        accounts.set_password(s, accounts.find_user(s, "bob"), PASSWORD)
    with_session(page, app, address, "bob")
