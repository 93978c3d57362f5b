"""Runs two lanes in one process. While one lane's work is in the engine, the other lane reads or records.

Two threads are enough. An engine keeps all cores busy with the work of one lane, and the other lane's work takes only a
few per cent of that time.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Condition
from typing import Generic, TypeVar

LOOK_SECONDS = 0.05  # pause between two looks for more work while the other lane is busy
TURN_SECONDS = 5.0  # after this time, nothing more is claimed, because a worker that should stop waits for the lanes

T = TypeVar("T")


class Lanes(Generic[T]):
    """Claims work and carries it out in two lanes, until there is no more work or the turn is over."""

    def __init__(self, claim: Callable[[], T | None], carry_out: Callable[[T], None]) -> None:
        """Keep both functions. `claim` returns None if no work waits. Only one lane at a time calls `claim`."""
        self._claim, self._carry_out = claim, carry_out
        self._changed = Condition()
        self._busy = 0
        self._ends = time.monotonic() + TURN_SECONDS

    def run(self, first: T) -> None:
        """Carry out `first`, and claim and carry out more work in both lanes. Raises what the functions raise."""
        self._busy = 1
        with ThreadPoolExecutor(1, "second-lane") as executor:
            second = executor.submit(self._go_on)
            try:
                self._do(first)
                self._go_on()
            except BaseException:
                self._ends = 0.0
                raise
        second.result()

    def _go_on(self) -> None:
        while (work := self._next()) is not None:
            self._do(work)

    def _do(self, work: T) -> None:
        try:
            self._carry_out(work)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _next(self) -> T | None:
        """Claim and return work. If no work waits, try again until the other lane is idle, and then return None."""
        with self._changed:
            while time.monotonic() < self._ends:
                if (work := self._claim()) is not None:
                    self._busy += 1
                    return work
                if not self._busy:
                    return None
                self._changed.wait(LOOK_SECONDS)
        return None
