"""Long work that says nothing until it is done, in a thread of its own, while somebody is told that it goes on."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

T = TypeVar("T")
TOLD_EVERY = 1.0  # seconds


def run_with_heartbeat(work: Callable[[], T], alive: Callable[[], None]) -> T:
    """What `work()` gives; `alive` is called each second until then.

    Raises what `work` raises, and what `alive` raises, which leaves the work to its thread.
    """
    done: Future[T] = Future()
    Thread(target=_carry_out, args=(work, done), name="beside", daemon=True).start()
    while not wait([done], TOLD_EVERY).done:
        alive()
    return done.result()


def _carry_out(work: Callable[[], T], done: "Future[T]") -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # for the thread that waits
        done.set_exception(error)
