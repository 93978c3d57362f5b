"""What the front does with requests whose clients are slow, without waiting for real clients."""

import asyncio
import io
from collections.abc import Iterable
from typing import Any

import pytest
from apiflask import APIFlask

from db.settings import Settings
from web.app import make_front
from web.server import body, front
from web.server.answer import HELD_BYTES
from web.server.body import Message
from web.server.front import Front, Kind

THREADS = dict.fromkeys(Kind, 1)
WAIT = 20  # seconds, for what should take none
END = {"type": "http.response.body", "body": b"", "more_body": False}


class Client:
    """A client that sends these pieces of a body, then nothing for ever; it reads `reads` messages.

    `pause`: the seconds before each piece.
    """

    def __init__(self, *pieces: bytes, more: bool = False, reads: int = 1000, pause: float = 0.0) -> None:
        self.pause = pause
        self.pieces = [{"body": piece, "more_body": True} for piece in pieces]
        self.pieces[-1:] = [{"body": piece["body"], "more_body": more} for piece in self.pieces[-1:]]
        self.reads = reads
        self.read: list[Message] = []

    async def receive(self) -> Message:
        if not self.pieces:
            await asyncio.Event().wait()
        await asyncio.sleep(self.pause)
        return {"type": "http.request", **self.pieces.pop(0)}

    async def send(self, message: Message) -> None:
        if len(self.read) == self.reads:
            await asyncio.Event().wait()
        self.read.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.read)


def ask(app: Any, client: Client, kind: Kind = Kind.PAGE, length: int | None = None, limit: int = 1000) -> Client:
    fields = [] if length is None else [(b"content-length", str(length).encode())]
    scope = {
        "type": "http", "method": "POST", "path": "/ä", "raw_path": b"/%C3%A4", "query_string": b"a=1",
        "http_version": "1.1", "scheme": "http", "headers": [(b"cookie", b"a=1"), (b"cookie", b"b=2"), *fields],
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 9),
    }  # fmt: skip
    tested = Front(app, lambda _method, _path: kind, THREADS, limit)
    asyncio.run(asyncio.wait_for(tested(scope, client.receive, client.send), WAIT))
    tested.close()
    return client


def echo(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with the body that came."""
    start_response("200 OK", [("X-Path", environ["PATH_INFO"]), ("X-Cookie", environ["HTTP_COOKIE"])])
    return [environ["wsgi.input"].read()]


@pytest.mark.parametrize("kind", [Kind.PAGE, Kind.FILES])
def test_body_reaches_the_application(kind: Kind) -> None:
    client = ask(echo, Client(b"one", b"two"), kind, length=6)
    assert (client.read[0]["status"], client.body) == (200, b"onetwo")
    headers = dict(client.read[0]["headers"])
    assert (headers[b"x-path"], headers[b"x-cookie"]) == (b"/\xc3\xa4", b"a=1; b=2")
    assert client.read[-1] == END


def test_page_whose_body_does_not_come_is_refused_without_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "BODY_SECONDS", 0.01)
    client = ask(None, Client(b"one", more=True), length=6)
    assert client.read[0]["status"] == 408


def test_page_whose_body_comes_drop_by_drop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "BODY_SECONDS", 0.5)
    client = ask(echo, Client(*[b"x"] * 200, pause=0.01), length=200)
    assert client.read[0]["status"] == 408


def test_row_37_upload_that_comes_drop_by_drop_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "PIECE_SECONDS", 0.5)
    assert len(ask(echo, Client(*[b"x"] * 200, pause=0.01), Kind.FILES, length=200).body) < 200


def test_large_body_is_refused_while_as_many_as_may_be_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "LARGE_BODIES", 0)
    client = ask(None, Client(b"x" * 65_537), length=65_537, limit=100_000)
    assert client.read[0]["status"] == 503
    assert b"retry-after" in dict(client.read[0]["headers"])


def test_upload_that_stalls_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "PIECE_SECONDS", 0.01)
    assert ask(echo, Client(b"one", more=True), Kind.FILES, length=6).body == b"one"


@pytest.mark.slow
def test_body_beyond_the_limit_is_not_read() -> None:
    client = ask(echo, Client(), length=1001)
    assert client.body == b""
    assert (b"connection", b"close") in client.read[0]["headers"]


def test_client_that_does_not_read_frees_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "SEND_SECONDS", 0.01)
    closed = []

    def endless(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * HELD_BYTES
        finally:
            closed.append(True)

    ask(endless, Client(reads=2))
    assert closed == [True]


def test_short_answer_frees_the_thread_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "SEND_SECONDS", 0.2)
    ended = []

    def short(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        for _ in range(9):
            yield b"x" * (HELD_BYTES // 10)
        ended.append(True)

    client = Client(reads=0)
    ask(short, client)
    assert (ended, client.read) == ([True], [])


def test_file_is_sent_and_closed() -> None:
    file = io.BytesIO(b"x" * 200_000)

    def download(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]

    assert len(ask(download, Client()).body) == 200_000
    assert file.closed


def test_application_that_raises_is_reported_to_the_server() -> None:
    def broken(_environ: dict[str, Any], _start_response: Any) -> Iterable[bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(broken, Client())


def test_requests_that_carry_files_have_threads_of_their_own(app: APIFlask, settings: Settings) -> None:
    kind_of = make_front(app, settings)._kind_of
    assert kind_of("POST", "/api/v1/jobs") == kind_of("GET", "/api/v1/jobs/7/results.csv") == Kind.FILES
    assert kind_of("GET", "/api/v1/jobs") == kind_of("GET", "/submit") == kind_of("GET", "/no/such") == Kind.PAGE
    assert kind_of("GET", "/metrics") == kind_of("GET", "/readyz") == Kind.HEALTH
    assert kind_of("GET", "/healthz") == Kind.ALIVE
