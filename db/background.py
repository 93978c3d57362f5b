"""Run a blocking call in a thread, and call a heartbeat once a second until it returns."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
HEARTBEAT_SECONDS = 1.0


def run_with_heartbeat(work: Callable[[], T], alive: Callable[[], None]) -> T:
    """Return what `work()` returns; `alive` is called each second until then.

    Raises what `work` raises. Raises what `alive` raises, and then the work goes on in its thread.
    """
    done: Future[T] = Future()
    Thread(target=_carry_out, args=(work, done), name="background", daemon=True).start()
    while not wait([done], HEARTBEAT_SECONDS).done:
        alive()
    return done.result()


def _carry_out(work: Callable[[], T], done: "Future[T]") -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # the waiting thread raises it
        done.set_exception(error)
