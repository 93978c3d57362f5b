"""Follows work that a worker does: shows a progress bar while the work goes on, and raises an error if it fails."""

from collections.abc import Callable
from time import monotonic
from typing import Protocol, TypeVar

from cli.errors import JobFailed, Unavailable
from cli.output import Update, progress_bar
from cli.polling import poll
from db.storage import storage

POLL_SECONDS = 0.5
UNCLAIMED_SECONDS = 120  # if no worker has taken the work after this time, no worker runs for it
SHORT_OF_DISK = (
    "workers take no new work, because the free disk has reached the reserve (CTBATCH_RESERVE_BYTES); free some space,"
    " and the work that is queued goes on"
)
ENDED = ("ready", "finished")
FAILED = ("failed", "cancelled")


class View(Protocol):
    """A view of some work. `progress` is from 0 to 1. `error` is the reason for a failure."""

    @property
    def state(self) -> str: ...
    @property
    def progress(self) -> float: ...
    @property
    def error(self) -> str | None: ...


ViewT = TypeVar("ViewT", bound=View)


def follow(
    title: str,
    look: Callable[[Update], ViewT],
    note: Callable[[ViewT], str],
    *,
    is_busy: Callable[[], bool] = lambda: True,
    nobody: str = "",
    quiet: bool = False,
) -> ViewT:
    """Show the progress of work until it ends, and return its last view.

    Args:
        title: names the work beside the bar and in an error, such as "building site/1".
        look: returns the present view. It may also do the work, and move the bar while it does so.
        note: returns the text beside the bar.
        is_busy: returns whether a worker does something else now, so that queued work has to wait.
        nobody: the error if the work stays queued although no worker is busy.
        quiet: show no bar.

    Raises:
        JobFailed: the work failed or was cancelled.
        Unavailable: no worker takes the work, because none runs or the disk is short of space.
    """
    waiting_since = monotonic()
    with progress_bar(title, 1.0, enabled=not quiet) as update:
        for view in poll(lambda: look(update), POLL_SECONDS):
            update(view.progress, note(view))
            if view.state in ENDED:
                break
            if view.state in FAILED:
                raise JobFailed(f"{title} {view.state}: {view.error or note(view)}")
            if view.state != "queued" or is_busy():
                waiting_since = monotonic()
            elif monotonic() - waiting_since > UNCLAIMED_SECONDS:
                raise Unavailable(SHORT_OF_DISK if storage().is_short_of_disk() else nobody)
    return view
