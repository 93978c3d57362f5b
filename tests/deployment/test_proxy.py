"""The proxy of docker-compose.yml: nginx with the very configuration, before a server that notes what reaches it."""

import http.server
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from apiflask import APIFlask

from cli.benchmarks.connections import PROXY, proxy_config
from cli.benchmarks.crowd import unchecked
from tests.builders.servers import free_port
from web.actions.request import MAX_OTHER_BODY_BYTES, takes_files
from web.app import create_app

WAIT = 20  # seconds, for what should take none


class Web(http.server.ThreadingHTTPServer):
    """What stands behind the proxy. `heads`: of the requests that reached it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heads: list[dict[str, str]] = []
        self.reached = threading.Event()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        self.server.heads.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        self.server.reached.set()
        length = int(self.headers.get("Content-Length", 0))
        while length and (piece := self.rfile.read1(length)):
            length -= len(piece)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy_port(web: Web, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of an nginx before `web`. With the parameter "behind another" it trusts a proxy at 127.0.0.1."""
    trusts_another = getattr(request, "param", "") == "behind another"
    with running_proxy(tmp_path, web.server_address[1], trusts_another=trusts_another) as port:
        yield port


@contextmanager
def running_proxy(folder: Path, web_port: int, *, trusts_another: bool = False) -> Iterator[int]:
    """Run nginx before a port of this machine. Yield its own port. What it logs goes to `folder/log`."""
    for program in ("nginx", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian: {program})")
    port = free_port()
    config = proxy_config(folder, web_port, port)
    if trusts_another:
        text, replaced = re.subn("# set_real_ip_from .*;", "set_real_ip_from 127.0.0.1;", config.read_text())
        assert replaced == 1
        config.write_text(text)
    argv = ["nginx", "-p", folder, "-c", config, "-e", "stderr", "-g", "daemon off;"]
    with (folder / "log").open("wb") as log, subprocess.Popen(argv, stderr=log) as nginx:
        for _ in range(100):
            assert nginx.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port
        nginx.terminate()


def get(port: int, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"https://127.0.0.1:{port}{path}", verify=unchecked(), headers=headers, timeout=WAIT)


def begin(port: int, path: str, length: int, head: str = "") -> ssl.SSLSocket:
    """Send a head and one byte of its body. `head`: lines of the head, each with its end."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    connection = unchecked().wrap_socket(plain)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: here\r\n{head}Content-Length: {length}\r\n\r\nx".encode())
    return connection


def test_web_is_told_who_asked_and_how(web: Web, proxy_port: int) -> None:
    assert get(proxy_port, "/jobs", **{"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http"}).text == "ok"
    [head] = web.heads
    assert head["x-forwarded-proto"] == "https"
    assert head["host"] == head["x-forwarded-host"] == f"127.0.0.1:{proxy_port}"
    assert head["x-forwarded-for"].split(", ")[-1] == "127.0.0.1", "the last is what one trusted proxy vouches for"


def test_request_for_a_page_reaches_web_only_when_it_is_whole(web: Web, proxy_port: int) -> None:
    with begin(proxy_port, "/sign-in", 9) as connection:
        assert get(proxy_port, "/jobs").text == "ok"
        assert [head["path"] for head in web.heads] == ["/jobs"]
        connection.sendall(b"12345678")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert [head["path"] for head in web.heads] == ["/jobs", "/sign-in"]


def test_upload_reaches_web_as_it_comes(web: Web, proxy_port: int) -> None:
    with begin(proxy_port, "/api/v1/jobs", 5_000_000_000):
        assert web.reached.wait(WAIT)


def test_body_that_is_too_large_for_a_page_ends_at_the_proxy(web: Web, proxy_port: int) -> None:
    with begin(proxy_port, "/sign-in", MAX_OTHER_BODY_BYTES + 1) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert web.heads == []


def test_log_holds_neither_names_nor_sign_in_links(tmp_path: Path) -> None:
    page = "/jobs/j?find=PATMARK"
    with running_proxy(tmp_path, free_port()) as port:  # web is away
        for path in (f"{page}&poll=1", "/sign-in/PATMARK"):
            assert get(port, path, Referer=f"https://127.0.0.1:{port}{page}").status_code == 502
        with ExitStack() as stack:
            for _ in range(200 + 20):
                stack.enter_context(begin(port, page, 9))
            assert get(port, page).status_code == 503
    assert "PATMARK" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_one_address_holds_only_so_many_requests(web: Web, proxy_port: int) -> None:
    with ExitStack() as stack:
        for _ in range(200 + 20):  # nginx may not have read the last heads yet
            stack.enter_context(begin(proxy_port, "/sign-in", 9))
        assert get(proxy_port, "/jobs").status_code == 503
    assert web.heads == []


@pytest.mark.slow
@pytest.mark.parametrize("proxy_port", ["behind another"], indirect=True)
def test_behind_another_proxy_each_client_is_counted_by_its_own_address(web: Web, proxy_port: int) -> None:
    busy, other = "203.0.113.9", "203.0.113.10"
    with ExitStack() as stack:
        for _ in range(200 + 20):
            stack.enter_context(begin(proxy_port, "/sign-in", 9, f"X-Forwarded-For: {busy}\r\n"))
        assert get(proxy_port, "/jobs", **{"X-Forwarded-For": busy}).status_code == 503
        assert get(proxy_port, "/jobs", **{"X-Forwarded-For": f"made up, {other}"}).text == "ok"
    [head] = web.heads
    assert head["x-forwarded-for"].split(", ")[-2] == other, "what two trusted proxies vouch for"


def test_proxy_waits_for_no_client_longer_than_half_a_minute() -> None:
    seconds = re.findall(r"(client_header|client_body|send|keepalive)_timeout (\d+)s;", PROXY.read_text())
    assert len(seconds) == 4
    assert max(int(number) for _, number in seconds) <= 30


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/healthz"])
def test_monitoring_is_not_for_clients(web: Web, proxy_port: int, path: str) -> None:
    assert get(proxy_port, path).status_code == 404
    assert web.heads == []


def test_files_are_let_through_at_every_address_that_takes_them(settings: object, app: APIFlask) -> None:
    found = re.search(r"location ~ (\^/\(api.*\$) \{", PROXY.read_text())
    assert found is not None
    marks = vars(takes_files(lambda: None))
    addresses = {rule.rule for rule in app.url_map.iter_rules() if "POST" in (rule.methods or ())}
    taking = {
        rule.rule
        for rule in app.url_map.iter_rules()
        if "POST" in (rule.methods or ()) and marks.keys() <= vars(app.view_functions[rule.endpoint]).keys()
    }
    assert {address for address in addresses if re.search(found[1], address)} == taking


@pytest.fixture
def app(settings: object) -> APIFlask:
    return create_app(settings)  # type: ignore[arg-type]
