"""Calls the WSGI application in a thread, and passes its answer to the event loop that serves the connection."""

import asyncio
import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.util import FileWrapper

from web.server.body import Message

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

HELD_BYTES = 1024 * 1024  # while the client has not read this much of an answer, the thread waits


class ClientGone(ConnectionError):
    """The client is gone, so nobody reads the answer."""


class Answer:
    """The messages of an answer. The application's thread puts them in. The server's loop takes them out."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep `loop`, which is woken for each message."""
        self._loop = loop
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._held = 0
        self._gone = False
        self._changed = threading.Condition()

    def put(self, message: Message) -> None:
        """Pass on a message, after waiting until less than HELD_BYTES are unread. Raises ClientGone."""
        with self._changed:
            self._changed.wait_for(lambda: self._gone or self._held < HELD_BYTES)
            if self._gone:
                raise ClientGone
            self._held += len(message.get("body", b""))
        self._loop.call_soon_threadsafe(self._messages.put_nowait, message)

    def end(self) -> None:
        """Let `take` return None after the messages so far. Call this in the loop."""
        self._messages.put_nowait(None)

    async def take(self) -> Message | None:
        """Return the next message, or None at the end."""
        message = await self._messages.get()
        if message is not None:
            with self._changed:
                self._held -= len(message.get("body", b""))
                self._changed.notify()
        return message

    def abandon(self) -> None:
        """Let every later `put` raise ClientGone."""
        with self._changed:
            self._gone = True
            self._changed.notify()


def call(app: Application, environ: Environ, answer: Answer) -> FileWrapper | None:
    """Call the application, and put the body that it returns into `answer`.

    If the body is a file, return it instead. The caller must send and close it.
    """

    def start_response(status: str, headers: list[tuple[str, str]], _exc_info: object = None) -> None:
        pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        answer.put({"type": "http.response.start", "status": int(status.split(" ", 1)[0]), "headers": pairs})

    try:
        pieces = app(environ, start_response)
        if isinstance(pieces, FileWrapper):
            return pieces
        try:
            for piece in pieces:
                if piece:
                    answer.put({"type": "http.response.body", "body": piece, "more_body": True})
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
    except ClientGone:
        pass
    return None


def environ_of(scope: Message, body: io.IOBase) -> Environ:
    """Return the WSGI environment (PEP 3333) of an ASGI scope."""
    server, client = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        text = value.decode("latin-1")
        joint = "; " if key == "HTTP_COOKIE" else ","
        environ[key] = f"{environ[key]}{joint}{text}" if key in environ else text
    if "CONTENT_LENGTH" not in environ:
        environ["wsgi.input_terminated"] = True  # the body is chunked or empty, and ends where the file ends
    return environ
