"""The web process as it is started: requests over real connections, honest and not."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import pytest
from gunicorn.asgi.protocol import ASGIProtocol

from cli.supervisor.roles import command_line, environment
from db.access import tokens
from db.access.accounts import create_user
from db.database import session_scope
from db.settings import Settings
from tests.builders.files import png
from tests.builders.servers import free_port
from tests.builders.versions import add_champion
from tests.conftest import fresh_database
from web.server.worker import check_gunicorn

WAIT = 20  # seconds, for what should take none


@dataclass
class Served:
    """A web process of this test, and ann's token for it."""

    process: subprocess.Popen[bytes]
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def page(self) -> httpx.Response:
        """A page, over a connection of its own."""
        return httpx.get(f"{self.url}/jobs", headers={"Authorization": f"Bearer {self.token}"}, timeout=WAIT)

    def connect(self, sent: bytes = b"", *, buffer: int = 0) -> socket.socket:
        connection = socket.socket()
        if buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(WAIT)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(sent)
        return connection

    def head(self, line: str, *fields: str) -> bytes:
        fields = ("Host: here", f"Authorization: Bearer {self.token}", *fields)
        return "\r\n".join((f"{line} HTTP/1.1", *fields, "", "")).encode()


Serve = Callable[..., Served]


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, str]]:
    """Settings with a champion and a user, ann, which all tests of this file share; and ann's token."""
    with fresh_database(request, "sqlite", tmp_path_factory.mktemp("site") / "home") as settings:
        add_champion(settings.home)
        with session_scope() as s:
            token = tokens.issue_token(s, create_user(s, "ann", None), "test")
        yield settings, token


@contextmanager
def web_process(settings: Settings, token: str, **changed: int) -> Iterator[Served]:
    """The web process of these settings, with some of gunicorn's options changed."""
    port = free_port()
    own = settings.model_copy(update={"port": port})
    argv = command_line("web", own)
    argv[-1:-1] = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
    env = environment("web", own) | {
        "DATABASE_URL": own.database_url, "CELERY_BROKER_URL": own.broker_url, "CTBATCH_SECRET_KEY": "a test's",
    }  # fmt: skip
    with subprocess.Popen(argv, env=env, cwd=own.home, stderr=subprocess.DEVNULL) as process:
        try:
            served = Served(process, port, token)
            wait_until_it_listens(served)
            yield served
        finally:
            process.terminate()


def wait_until_it_listens(served: Served) -> None:
    for _ in range(300):
        try:
            served.connect().close()
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
    assert httpx.get(f"{served.url}/healthz", timeout=WAIT).status_code == 200


@pytest.fixture
def serve(site: tuple[Settings, str]) -> Iterator[Serve]:
    """Starts web processes for one test, with some of gunicorn's options changed."""
    with ExitStack() as stack:
        yield lambda **changed: stack.enter_context(web_process(*site, **changed))


@pytest.fixture(scope="module")
def served(site: tuple[Settings, str]) -> Iterator[Served]:
    """The web process with the options that it is always started with."""
    with web_process(*site) as served:
        yield served


def upload(name: str = "1.png") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + png() + b"\r\n--x--\r\n"


LONG = "/static/vendor/swagger-ui/swagger-ui-bundle.js"
MULTIPART = "Content-Type: multipart/form-data; boundary=x"


def test_clients_that_keep_the_server_waiting_do_not_stop_pages(served: Served) -> None:
    kinds = (
        b"",
        b"GET /jobs HTTP/1.1\r\nHost: he",
        served.head("POST /sign-in", "Content-Length: 500", "Content-Type: application/x-www-form-urlencoded") + b"a",
        served.head("POST /api/v1/jobs", "Content-Length: 5000000", MULTIPART) + b"--x",
    )
    with ExitStack() as stack:
        for kind in kinds * 6:
            stack.enter_context(served.connect(kind))
        for _ in range(20):
            stack.enter_context(served.connect(served.head(f"GET {LONG}"), buffer=2048))
        assert served.page().status_code == 200
        assert httpx.get(f"{served.url}/healthz", timeout=WAIT).status_code == 200


def test_uploads_do_not_wait_for_pages_nor_for_each_other(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            begun = served.head("POST /api/v1/jobs", "Content-Length: 5000000", MULTIPART) + b"--x"
            stack.enter_context(served.connect(begun))
        answer = httpx.post(
            f"{served.url}/api/v1/jobs",
            headers={"Authorization": f"Bearer {served.token}"},
            files={"files": ("1.png", png())},
            timeout=WAIT,
        )
    assert answer.status_code == 202


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: he"], ids=["nothing", "half a head"])
def test_connection_without_a_whole_head_is_closed(serve: Serve, sent: bytes) -> None:
    with serve(keep_alive=1).connect(sent) as connection:
        assert connection.recv(100) == b""


@pytest.mark.slow
def test_new_connection_takes_the_place_of_the_one_that_waited_longest(serve: Serve) -> None:
    served = serve(worker_connections=3)
    waiting = [served.connect() for _ in range(3)]
    assert served.page().status_code == 200
    assert waiting[0].recv(1) == b""
    for connection in waiting:
        connection.close()


def test_request_that_waits_for_its_client_gives_way_to_a_new_connection(serve: Serve) -> None:
    served = serve(worker_connections=3)
    form = "Content-Type: application/x-www-form-urlencoded"
    begun = served.head("POST /sign-in", "Content-Length: 500", form) + b"a"
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(served.connect(begun))
        time.sleep(0.5)  # until their heads are read
        assert served.page().status_code == 200


def test_gunicorn_without_a_name_that_the_worker_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_gunicorn()
    monkeypatch.delattr(ASGIProtocol, "_close_transport")
    with pytest.raises(RuntimeError, match="_close_transport"):
        check_gunicorn()


def test_web_processes_that_share_a_home_count_apart(settings: Settings) -> None:
    several = settings.model_copy(update={"web_workers": 2})
    ports = (8001, 8002)
    folders = {
        environment("web", several.model_copy(update={"port": port}), {})["PROMETHEUS_MULTIPROC_DIR"] for port in ports
    }
    assert len(folders) == len(ports)


@pytest.mark.slow
def test_web_stops_without_waiting_for_connections_that_have_no_request(serve: Serve) -> None:
    served = serve(graceful_timeout=300)
    with served.connect(), served.connect(served.head("GET /healthz")) as kept:
        assert kept.recv(100).startswith(b"HTTP/1.1 200 ")
        served.process.terminate()
        assert served.process.wait(WAIT) == 0


def test_refused_upload_gets_its_answer_though_nobody_reads_the_file(served: Served) -> None:
    answer = httpx.post(f"{served.url}/api/v1/jobs", files={"files": ("1.zip", os.urandom(3_000_000))}, timeout=WAIT)
    assert (answer.status_code, answer.headers["Connection"]) == (401, "close")


def test_body_that_is_too_large_for_a_page_is_refused(served: Served) -> None:
    answer = httpx.post(f"{served.url}/sign-in", data={"name": "x" * 1_500_000}, timeout=WAIT)
    assert answer.status_code == 413


def test_chunked_upload_is_received(served: Served) -> None:
    chunked = served.head("POST /api/v1/jobs", "Transfer-Encoding: chunked", MULTIPART, "Connection: close")
    body = upload()
    pieces = (body[:7], body[7:])
    for piece in pieces:
        chunked += f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    with served.connect(chunked + b"0\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 202 ")


def test_upload_that_breaks_off_is_refused(served: Served) -> None:
    with served.connect(served.head("POST /api/v1/jobs", "Content-Length: 5000", MULTIPART)) as connection:
        connection.sendall(upload()[:60])
        connection.shutdown(socket.SHUT_WR)
        assert not connection.recv(100).startswith(b"HTTP/1.1 2")
    assert served.page().status_code == 200


@pytest.mark.parametrize("name", ["płuca", "März", "日本", "\U0001fac1"], ids=["polish", "german", "japanese", "emoji"])
def test_exports_of_a_job_with_a_name_in_any_script_are_sent(served: Served, name: str) -> None:
    with httpx.Client(base_url=f"{served.url}/api/v1", headers={"Authorization": f"Bearer {served.token}"}) as client:
        job_id = client.post("/jobs", data={"name": name}, files={"files": ("1.png", png())}).json()["id"]
        assert client.post(f"/jobs/{job_id}/cancel").status_code == 202
        for export in ("results.csv", "results.json", "results.parquet", "findings.csv", "findings.json"):
            answer = client.get(f"/jobs/{job_id}/{export}")
            assert answer.status_code == 200, export
            disposition = next(value for key, value in answer.headers.raw if key.lower() == b"content-disposition")
            assert disposition.isascii()


def test_one_connection_carries_several_requests(served: Served) -> None:
    with httpx.Client(base_url=served.url, headers={"Authorization": f"Bearer {served.token}"}, timeout=WAIT) as client:
        assert client.head("/jobs").content == b""
        static = client.get(LONG, headers={"Accept-Encoding": "identity"})
        assert len(static.content) == int(static.headers["Content-Length"]) > 1_000_000
        assert client.get("/api/v1/jobs?limit=1").json().keys() >= {"items"}
        assert client.get("/j%C3%B6bs/%2F").status_code == 404
        etag = static.headers["ETag"]
        kept = client.get(LONG, headers={"If-None-Match": etag, "Accept-Encoding": "identity"})
        assert (kept.status_code, kept.content) == (304, b"")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\nHost: x\rX-A: b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    ],
    ids=["length and chunked", "two lengths", "signed length", "bare CR", "bare LF", "two hosts"],
)
def test_row_36_request_whose_end_is_ambiguous_is_refused(served: Served, sent: bytes) -> None:
    with served.connect(sent) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_websocket_is_refused(served: Served) -> None:
    fields = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: " + "A" * 22 + "==",
    )
    with served.connect(served.head("GET /jobs", *fields)) as connection:
        assert not connection.recv(100).startswith(b"HTTP/1.1 101 ")


def test_forwarded_headers_of_this_machine_are_not_believed(served: Served) -> None:
    answer = httpx.get(f"{served.url}/sign-in", headers={"X-Forwarded-Proto": "https"}, timeout=WAIT)
    assert "Secure" not in answer.headers["Set-Cookie"]
    assert "Strict-Transport-Security" not in answer.headers
