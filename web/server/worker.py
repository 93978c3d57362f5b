"""gunicorn's asyncio worker for the front, with limits on connections.

gunicorn 27 has no time limit for the first request of a connection. It has no time limit for a client that reads the
end of an answer. It does not limit the number of connections. When it stops, it waits even for connections without a
request.
"""

import asyncio
import resource
from typing import Any

import gunicorn
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from web.server import waiting

CLOSE_SECONDS = 15.0  # time limit for a client to read the end of its last answer
FILES_BESIDE_CONNECTIONS = 1024


class Protocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn has no types
    """A connection. Its client must send the whole head of a request within gunicorn's `--keep-alive`."""

    worker: "Worker"

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the time limit for the first request."""
        self.waiting = waiting.Waiting()
        waiting.current.set(self.waiting)  # the next line starts the task of this connection, which reads `current`
        super().connection_made(transport)
        self._arm_keepalive_timer()
        self.worker.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection from the worker's list."""
        self.worker.connections.pop(self, None)
        super().connection_lost(exc)

    def _close_transport(self) -> None:
        unread = self.transport.get_write_buffer_size()
        super()._close_transport()
        if unread:
            self.worker.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def close_if_waiting(self) -> bool:
        """Close the connection if it has no request. Return whether it was closed."""
        if self._awaiting_request:
            self.transport.abort()
        return bool(self._awaiting_request)


def check_gunicorn() -> None:
    """Raise RuntimeError if this gunicorn lacks a private name that this module uses. The message names it."""
    missing = [
        f"{owner.__name__}.{name}"
        for owner, name in ((ASGIProtocol, "_arm_keepalive_timer"), (ASGIProtocol, "_close_transport"),
                            (gasgi.ASGIWorker, "_shutdown"), (gasgi, "ASGIProtocol"))
        if not hasattr(owner, name)
    ]  # fmt: skip
    if "_awaiting_request" not in ASGIProtocol.__init__.__code__.co_names:
        missing.append("ASGIProtocol._awaiting_request")
    if missing:
        lacks = ", ".join(missing)
        raise RuntimeError(f"gunicorn {gunicorn.__version__} lacks {lacks}; install the version that is locked")


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """A web process. At the limit `--worker-connections`, it closes a connection to make room for a new one.

    It closes a connection without a request, or else the connection that has waited longest for its client to send a
    body or to read an answer. If it finds no connection to close, it closes the new one.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start without connections."""
        super().__init__(*args, **kwargs)
        self.connections: dict[Protocol, None] = {}  # oldest first

    def init_process(self) -> None:
        """Raise the limit of open files to the number that connections and work need. Then serve."""
        check_gunicorn()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.worker_connections + FILES_BESIDE_CONNECTIONS
        number = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, most))
        gasgi.ASGIProtocol = Protocol  # the worker makes its connections from this class
        super().init_process()

    async def _shutdown(self) -> None:
        """Close connections without a request. Then wait until the other requests are answered."""
        for connection in list(self.connections):
            connection.close_if_waiting()
        await super()._shutdown()

    def admit(self, connection: Protocol) -> None:
        """Register a new connection. At the limit, close another connection, or else the new one."""
        others = list(self.connections)
        self.connections[connection] = None
        if len(others) < self.worker_connections or any(other.close_if_waiting() for other in others):
            return
        slow = [(since, id(other), other) for other in others if (since := other.waiting.since) is not None]
        (min(slow)[2] if slow else connection).transport.abort()
