"""Caches a value that is expensive to find and often needed."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Finds a value at the first call, and keeps it for some seconds. Other threads that call meanwhile wait."""

    def __init__(self, find: Callable[[], T], seconds: Callable[[T], float]) -> None:
        """Find the value with `find`, and keep it for `seconds(value)`."""
        self._find = find
        self._seconds = seconds
        self._lock = threading.Lock()
        self._value: T | None = None
        self._until = 0.0

    def get(self) -> T:
        """Return the value. Raises what `find` raises. An error is not kept."""
        with self._lock:
            if self._value is None or time.monotonic() >= self._until:
                self._value = self._find()
                self._until = time.monotonic() + self._seconds(self._value)
            return self._value
