"""Waits for something by looking at it again and again."""

from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def poll(look: Callable[[], T], pause: Callable[[float], float] | float) -> Iterator[T]:
    """Yield `look()` for as long as the caller iterates.

    `pause`: seconds between two looks, or a function that gives them for the seconds since the first look.
    """
    started = monotonic()
    while True:
        yield look()
        sleep(pause(monotonic() - started) if callable(pause) else pause)
