"""Follows work that a worker of this database does: a bar while it goes on, an error if it fails."""

from collections.abc import Callable
from time import monotonic
from typing import Protocol, TypeVar

from cli.errors import JobFailed, Unavailable
from cli.output import Update, progress_bar
from cli.polling import poll

POLL_SECONDS = 0.5
UNCLAIMED_SECONDS = 120  # work that no worker takes in this time has no worker
ENDED = ("ready", "finished")
FAILED = ("failed", "cancelled")


class View(Protocol):
    """Work as people see it: `progress` from 0 to 1, `error` the reason for a failure."""

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
        title: names the work at the bar and in an error, as "building site/1".
        look: returns the present view. It may also do the work, and move the bar meanwhile.
        note: returns what the bar says beside the progress.
        is_busy: returns whether a worker does something else now, so that queued work has to wait.
        nobody: the error for work that stays queued although nobody is busy.
        quiet: show no bar.

    Raises:
        JobFailed: the work failed or was cancelled.
        Unavailable: no worker takes it.
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
                raise Unavailable(nobody)
    return view
