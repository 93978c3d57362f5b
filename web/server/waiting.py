"""Whether a connection's request waits for its client; while it does, the connection may have to make room."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Waiting:
    """Since when a request waits for its client to send or to read, in seconds of a clock; None while it does not."""

    since: float | None = None


current: ContextVar[Waiting | None] = ContextVar("waiting", default=None)  # of the connection that is served


@contextmanager
def for_client() -> Iterator[None]:
    """Mark that the request waits for its client."""
    waiting = current.get() or Waiting()
    waiting.since = time.monotonic()
    try:
        yield
    finally:
        waiting.since = None
