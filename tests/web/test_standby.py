"""PostgreSQL comes back as a standby, as after a failover: it can be read, and refuses to be written."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from cli.commands import doctor
from db import database as base
from db import migrate
from db.access.accounts import create_user
from db.database import read_scope, session_scope
from db.settings import Settings
from tests.builders.files import png
from tests.builders.servers import PostgresServer, running_postgres
from tests.builders.versions import add_champion
from tests.conftest import make_settings
from tests.web.actors import Api
from web.app import create_app
from web.monitoring import health

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test alone."""
    with running_postgres() as server:
        yield server
        base.get_engine().dispose()  # an open connection would hold up the server's stop


@pytest.fixture
def settings(server: PostgresServer, tmp_path: Path) -> Settings:
    """The settings of an installation whose database is on this server."""
    settings = make_settings(tmp_path / "home", DATABASE_URL=server.url + "postgres")
    base.use(settings)
    migrate.upgrade()
    add_champion(settings.home)
    return settings


def test_standby_is_not_ready_and_queues_nothing(
    server: PostgresServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 0.0)
    monkeypatch.setattr(health, "NOT_READY_SECONDS", 0.0)
    app = create_app(settings)
    with session_scope() as s:
        ann = create_user(s, "ann", None)
    api = Api(app, ann)

    def is_ready() -> tuple[int, bool]:
        answer = app.test_client().get("/readyz")
        return answer.status_code, answer.json["checks"]["database"]

    assert is_ready() == (200, True)
    server.stop()
    (server.folder / "data" / "standby.signal").touch()
    server.start()
    assert is_ready() == (503, False)
    assert api.get("/jobs").status_code == 200, "results can be read"
    for _ in range(2):  # with a new connection, and with one that has read
        answer = api.submit(("1.png", png()))
        assert (answer.status_code, answer.json["type"]) == (503, "urn:ctbatch:problem:unavailable")
        assert api.get("/jobs").json["items"] == []
    assert [(found.check, found.state) for found in doctor.database(settings)] == [("database", "fail")]
    with read_scope() as s:
        s.execute(text("SELECT pg_promote()"))
    assert is_ready() == (200, True)
    assert api.submit(("1.png", png())).status_code == 202
