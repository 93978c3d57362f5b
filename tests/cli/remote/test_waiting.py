"""How long a client waits for a server whose threads for files are all busy."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import pytest

from cli.remote import client
from cli.remote.client import Client
from cli.remote.find_server import Server

BODY = bytes(30_000_000)  # more than the sockets hold
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 13\r\nContent-Type: application/json\r\n\r\n"
ANSWER = HEAD + b'{"id": "job"}'


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "QUICK_SECONDS", 0.3)


@contextmanager
def busy_server() -> Iterator[tuple[Server, list[int]]]:
    """A server that reads nothing for longer than the short limit. The list holds the bytes of each request."""
    received: list[int] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            with connection:
                time.sleep(1)
                received.append(_read(connection))
                connection.sendall(ANSWER)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield Server(f"http://127.0.0.1:{listener.getsockname()[1]}", "token", local=True), received
        listener.shutdown(socket.SHUT_RDWR)


def _read(connection: socket.socket) -> int:
    """Read a request, and return the length of its body."""
    head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    missing = int(lengths[0].split(b":")[1]) if lengths else 0
    size = len(body)
    while size < missing and (piece := connection.recv(1 << 20)):
        size += len(piece)
    return size


def test_submission_that_waits_for_a_thread_is_sent_once() -> None:
    with busy_server() as (server, received), Client(server) as remote:
        job = remote.submit({}, [("a.zip", BytesIO(BODY))], "key")
    assert job["id"] == "job"
    assert len(received) == 1
    assert received[0] > len(BODY)


def test_download_that_waits_for_a_thread_arrives() -> None:
    with busy_server() as (server, _), Client(server) as remote:
        assert b"".join(remote.stream("/jobs/1/results.json")) == b'{"id": "job"}'


def test_other_requests_do_not_wait_so_long() -> None:
    with busy_server() as (server, _), Client(server) as remote, pytest.raises(client.Unavailable):
        remote.check()
