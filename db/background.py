"""Runs a blocking call in a thread, and calls a heartbeat once a second until the call returns."""

import errno
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
HEARTBEAT_SECONDS = 1.0
STORAGE_SECONDS = 1800.0  # storage that gives no answer for this long counts as hanging
SLOWEST_BYTES = 10_000_000  # bytes/s of the slowest storage on which a large file can be read


def run_with_heartbeat(work: Callable[[], T], alive: Callable[[], None], *, at_most: float = math.inf) -> T:
    """Run `work()` in a thread and return its result. Call `alive` each second until then.

    Raises what `work` raises. Raises what `alive` raises, and TimeoutError if `work` takes more than `at_most` seconds.
    In both cases `work` goes on in its thread.
    """
    done: Future[T] = Future()
    Thread(target=_carry_out, args=(work, done), name="background", daemon=True).start()
    ends = time.monotonic() + at_most
    while not wait([done], HEARTBEAT_SECONDS).done:
        alive()
        if time.monotonic() >= ends:
            raise TimeoutError(errno.ETIMEDOUT, f"there was no answer for {at_most / 60:.0f} minutes")
    return done.result()


def wait_for_storage(work: Callable[[], T], alive: Callable[[], None], *, size: int = 0) -> T:
    """Run `work()`, which reads or writes files of the storage, as `run_with_heartbeat` does.

    If the storage hangs, raise TimeoutError, which puts off the work. Without this, one machine with a hanging folder
    would keep its work for ever. `size`: the bytes of the files, if they may be large.
    """
    return run_with_heartbeat(work, alive, at_most=STORAGE_SECONDS + size / SLOWEST_BYTES)


def _carry_out(work: Callable[[], T], done: "Future[T]") -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # raised again by the waiting thread
        done.set_exception(error)
