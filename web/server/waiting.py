"""Records when a request began to wait for its client.

If the server needs room, it may close the connection of the request that has waited longest.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Waiting:
    """The time at which a request began to wait for its client to send or to read.

    `since`: this time, in seconds of `time.monotonic`, or None if the request does not wait.
    """

    since: float | None = None


current: ContextVar[Waiting | None] = ContextVar("waiting", default=None)  # for the present connection


@contextmanager
def for_client() -> Iterator[None]:
    """Mark the request as waiting for its client during the block."""
    waiting = current.get() or Waiting()
    waiting.since = time.monotonic()
    try:
        yield
    finally:
        waiting.since = None
