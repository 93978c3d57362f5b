"""gunicorn's worker for the front: its asyncio worker, with an end to connections that wait for nothing.

gunicorn 27 waits without end for the first request of a connection, and for a client to take the last bytes of an
answer; it has no limit of connections, and when it stops it waits for those without a request too.
"""

import asyncio
import resource
from typing import Any

import gunicorn
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

from web.server import waiting

CLOSE_SECONDS = 15.0  # for a client to read the end of its last answer
FILES_BESIDE_CONNECTIONS = 1024


class Protocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn has no types
    """A connection: a request must begin, and its head end, within gunicorn's `--keep-alive`."""

    worker: "Worker"

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the time for the first request."""
        self.waiting = waiting.Waiting()
        waiting.current.set(self.waiting)  # for the task that serves this connection, which begins in the next line
        super().connection_made(transport)
        self._arm_keepalive_timer()
        self.worker.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.worker.connections.pop(self, None)
        super().connection_lost(exc)

    def _close_transport(self) -> None:
        unread = self.transport.get_write_buffer_size()
        super()._close_transport()
        if unread:
            self.worker.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def close_if_waiting(self) -> bool:
        """Close the connection unless a request is being answered; return whether it was closed."""
        if self._awaiting_request:
            self.transport.abort()
        return bool(self._awaiting_request)


def check_gunicorn() -> None:
    """Raise RuntimeError if this gunicorn lacks a private name that this module builds on, and name it."""
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
    """A web process. At `--worker-connections` a new connection takes the place of the one that waited longest.

    Connections without a request make room first, then those whose client neither sends a request nor reads an answer.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start without connections."""
        super().__init__(*args, **kwargs)
        self.connections: dict[Protocol, None] = {}  # oldest first

    def init_process(self) -> None:
        """Raise the limit of open files to what the connections and the work need, then serve."""
        check_gunicorn()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.worker_connections + FILES_BESIDE_CONNECTIONS
        number = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, most))
        gasgi.ASGIProtocol = Protocol  # the name by which the worker makes its connections
        super().init_process()

    async def _shutdown(self) -> None:
        """Close what waits for nothing, then let the requests end that have begun."""
        for connection in list(self.connections):
            connection.close_if_waiting()
        await super()._shutdown()

    def admit(self, connection: Protocol) -> None:
        """Count a new connection, and make room for it."""
        others = list(self.connections)
        self.connections[connection] = None
        if len(others) < self.worker_connections or any(other.close_if_waiting() for other in others):
            return
        slow = [(since, id(other), other) for other in others if (since := other.waiting.since) is not None]
        (min(slow)[2] if slow else connection).transport.abort()
