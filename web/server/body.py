"""Reads the body of a request while it arrives: whole for a page, in pieces for a thread that receives files."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

PIECE_BYTES = 128 * 1024
PIECE_SECONDS = 30.0  # time limit for PIECE_BYTES; 4 KiB/s is much slower than any usual line


class Body:
    """The part of a body that has not been read. `ended`: the end has been read, or the client is gone."""

    def __init__(self, scope: Message, receive: Receive) -> None:
        """Read the body of a request with the server's function `receive`."""
        self._receive = receive
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        self.length = int(lengths[0]) if lengths else None
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        self.ended = not chunked and not self.length

    async def next(self, seconds: float) -> bytes:
        """Return the next bytes, or b"" if the body has ended. Raises TimeoutError."""
        if self.ended:
            return b""
        async with asyncio.timeout(seconds):
            message = await self._receive()
        self.ended = not message.get("more_body", False)  # the message of a disconnect has no such field
        return bytes(message.get("body", b""))

    async def whole(self, limit: int, seconds: float) -> bytes:
        """Return the body, or its first bytes if it is longer than `limit`. Raises TimeoutError."""
        pieces, size = [], 0
        async with asyncio.timeout(seconds):
            while not self.ended and size <= limit:
                pieces.append(await self.next(seconds))
                size += len(pieces[-1])
        return b"".join(pieces)

    async def discard(self, seconds: float) -> None:
        """Read the rest and drop it. Clients read the answer only after they have sent the whole body."""
        try:
            async with asyncio.timeout(seconds):
                while not self.ended:
                    await self.next(seconds)
        except TimeoutError:
            self.ended = True


class BodyFile(io.RawIOBase):
    """A body as a file. Reading it blocks the reading thread. A body that comes too slowly ends early."""

    def __init__(self, body: Body, loop: asyncio.AbstractEventLoop) -> None:
        """Read `body` from the server that runs in `loop`. The loop must belong to another thread."""
        self._body = body
        self._loop = loop
        self._piece = memoryview(b"")
        self._patience = PIECE_SECONDS  # only time spent waiting for the client counts
        self._received = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for at least one byte, and copy the bytes into the buffer. Return their number, 0 at the end."""
        while not self._piece and not self._body.ended:
            self._piece = memoryview(asyncio.run_coroutine_threadsafe(self._next(), self._loop).result())
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    async def _next(self) -> bytes:
        started = self._loop.time()
        try:
            piece = await self._body.next(self._patience)
        except TimeoutError:
            self._body.ended = True
            return b""
        self._patience -= self._loop.time() - started
        self._received += len(piece)
        if self._received >= PIECE_BYTES:
            self._patience, self._received = PIECE_SECONDS, 0
        return piece
