"""Gives a request a thread when its whole body has arrived, so that the thread waits only for the application.

The event loop waits for clients that are idle, send slowly, or do not read their answer, because it can wait for many
clients at once. Requests that carry files wait for the client in their thread. So these requests have separate threads.
gunicorn's `gthread` worker is not used, because its threads wait for clients. a2wsgi is not used, because it has only
one kind of threads, and no time limits.
"""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from wsgiref.util import FileWrapper

from web.server import waiting
from web.server.answer import Answer, Application, call, environ_of
from web.server.body import Body, BodyFile, Message, Receive

Send = Callable[[Message], Awaitable[None]]

BODY_SECONDS = 30.0  # time limit for the whole body of a request for a page
LARGE_BODY = 64 * 1024  # bytes; a longer body counts as large
LARGE_BODIES = 64  # the most large bodies that are received at the same time
BUSY_SECONDS = 10  # after this time, the client may repeat a request that found no room
SEND_SECONDS = 30.0  # time limit for the client to read 64 KiB
DISCARD_SECONDS = 5.0  # time limit for the client to send the rest of a body that nobody reads
FILE_BLOCK = 64 * 1024


TOO_SLOW: dict[str, object] = {
    "type": "urn:ctbatch:problem:too-slow",
    "title": "Request Timeout",
    "status": 408,
    "detail": "The request arrived too slowly. Send it again.",
}
BUSY: dict[str, object] = {
    "type": "urn:ctbatch:problem:busy",
    "title": "Service Unavailable",
    "status": 503,
    "detail": "Too many large requests arrive at once. Send it again in a while.",
}


class NoRoom(Exception):
    """As many large bodies as are allowed are being received already."""


class Kind(StrEnum):
    """The kind of a request. Each kind has separate threads.

    `page`: waits only for the application. `files`: waits also for the client. `health`: waits also for storage.
    `alive`: waits for nothing.
    """

    PAGE = "page"
    FILES = "files"
    HEALTH = "health"
    ALIVE = "alive"


class Front:
    """An ASGI application that passes requests to a WSGI application."""

    def __init__(
        self, app: Application, kind_of: Callable[[str, str], Kind], threads: dict[Kind, int], body_limit: int
    ) -> None:
        """Pass requests to `app`.

        Args:
            app: the WSGI application.
            kind_of: returns the kind of a request for its method and path.
            threads: how many requests of each kind are answered at the same time. Others wait.
            body_limit: the largest body of a request without files, in bytes. The application must refuse larger ones.
        """
        self._app = app
        self._kind_of = kind_of
        self._pools = {kind: ThreadPoolExecutor(number, f"web-{kind}") for kind, number in threads.items()}
        self._body_limit = body_limit
        self._large = asyncio.Semaphore(LARGE_BODIES)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request. Refuse a WebSocket."""
        if scope["type"] != "http":
            return
        kind, body = self._kind_of(scope["method"], scope["path"]), Body(scope, receive)
        file: io.IOBase
        if kind is Kind.FILES:
            file = BodyFile(body, asyncio.get_running_loop())
        else:
            try:
                with waiting.for_client():
                    file = io.BytesIO(await self._small(body))
            except TimeoutError:
                await _refuse(send, TOO_SLOW)
                return
            except NoRoom:
                await _refuse(send, BUSY, (b"retry-after", str(BUSY_SECONDS).encode()))
                return
        await self._answer(kind, environ_of(scope, file), body, send)

    def close(self) -> None:
        """Wait until all threads have finished."""
        for pool in self._pools.values():
            pool.shutdown()

    async def _small(self, body: Body) -> bytes:
        """Return the body of a request for a page. If it is too large, return only a part. The application refuses it.

        Raises TimeoutError and NoRoom.
        """
        if body.length is not None and body.length > self._body_limit:
            return b""
        if body.ended or (body.length is not None and body.length <= LARGE_BODY):
            return await body.whole(self._body_limit, BODY_SECONDS)
        if self._large.locked():
            raise NoRoom
        async with self._large:
            return await body.whole(self._body_limit, BODY_SECONDS)

    async def _answer(self, kind: Kind, environ: Message, body: Body, send: Send) -> None:
        answer = Answer(asyncio.get_running_loop())
        calling = asyncio.get_running_loop().run_in_executor(self._pools[kind], call, self._app, environ, answer)
        calling.add_done_callback(lambda _: answer.end())
        try:
            while (message := await answer.take()) is not None:
                if "headers" in message and not body.ended:  # the client still sends this body
                    message["headers"].append((b"connection", b"close"))
                await _send(send, message)
            if (file := await calling) is not None:
                await _send_file(send, file)
            await body.discard(DISCARD_SECONDS)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:  # the client does not read; the server closes the connection
            return
        finally:
            answer.abandon()
            calling.cancel()


async def _send(send: Send, message: Message) -> None:
    with waiting.for_client():
        async with asyncio.timeout(SEND_SECONDS * (1 + len(message.get("body", b"")) // FILE_BLOCK)):
            await send(message)


async def _send_file(send: Send, file: FileWrapper) -> None:
    try:
        while block := file.filelike.read(FILE_BLOCK):
            await _send(send, {"type": "http.response.body", "body": block, "more_body": True})
    finally:
        file.close()


async def _refuse(send: Send, problem: dict[str, object], *headers: tuple[bytes, bytes]) -> None:
    """Answer with a problem (RFC 9457)."""
    headers = ((b"content-type", b"application/problem+json"), (b"connection", b"close"), *headers)
    await send({"type": "http.response.start", "status": problem["status"], "headers": list(headers)})
    await send({"type": "http.response.body", "body": json.dumps(problem).encode(), "more_body": False})
