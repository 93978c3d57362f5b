"""Waits for something by looking at it again and again."""

from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def poll(look: Callable[[], T], pause: Callable[[float], float] | float) -> Iterator[T]:
    """Yield the result of `look()` again and again, until the caller stops iterating.

    `pause`: the seconds between two looks. Or a function that gets the seconds since the first look, and returns the
    seconds until the next one.
    """
    started = monotonic()
    while True:
        yield look()
        sleep(pause(monotonic() - started) if callable(pause) else pause)
