"""Runs a blocking call in a thread, and calls a heartbeat once a second until the call returns."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
HEARTBEAT_SECONDS = 1.0


def run_with_heartbeat(work: Callable[[], T], alive: Callable[[], None]) -> T:
    """Run `work()` in a thread and return its result. Call `alive` each second until then.

    Raises what `work` raises. Raises what `alive` raises; `work` then goes on in its thread.
    """
    done: Future[T] = Future()
    Thread(target=_carry_out, args=(work, done), name="background", daemon=True).start()
    while not wait([done], HEARTBEAT_SECONDS).done:
        alive()
    return done.result()


def _carry_out(work: Callable[[], T], done: "Future[T]") -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # raised again by the waiting thread
        done.set_exception(error)
