"""gunicorn's worker for the front: its asyncio worker, with an end to connections that wait for nothing.

gunicorn 27 waits without end for the first request of a connection, and for a client to take the last bytes of an
answer; it has no limit of connections, and when it stops it waits for those without a request too.
"""

import asyncio
import resource
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers import gasgi

CLOSE_SECONDS = 15.0  # for a client to read the end of its last answer
FILES_BESIDE_CONNECTIONS = 1024


class Protocol(ASGIProtocol):  # type: ignore[misc]  # gunicorn has no types
    """A connection: a request must begin, and its head end, within gunicorn's `--keep-alive`."""

    worker: "Worker"

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the time for the first request."""
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


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """A web process. At `--worker-connections` a new connection takes the place of the one that waited longest."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start without connections."""
        super().__init__(*args, **kwargs)
        self.connections: dict[Protocol, None] = {}  # oldest first

    def init_process(self) -> None:
        """Raise the limit of open files to what the connections and the work need, then serve."""
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
        if len(others) >= self.worker_connections and not any(other.close_if_waiting() for other in others):
            connection.transport.abort()
