"""Notes since when a request waits for its client. Such a connection can be closed to make room for another one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Waiting:
    """Since when a request has been waiting for its client to send or to read.

    `since`: seconds of `time.monotonic`, or None if the request does not wait.
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
