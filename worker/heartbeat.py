"""Renews the leases of claimed work, ends the work of a worker that stops, and kills a process that hangs."""

import logging
import mmap
import os
import signal
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from db.database import current, session_scope
from db.ledger import leases
from db.ledger.leases import Claim, StaleClaim
from db.models import LeaseMixin

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0  # pause after a failed heartbeat; it is short, because leases may run out meanwhile


class WorkerStops(Exception):
    """The worker was asked to stop. The work goes back to the queue."""


class StopRequest:
    """A flag that a worker shares with the processes that it forks.

    Setting the flag takes no lock, so a signal handler may set it.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Ask the processes to give back their work, and to claim no more."""
        self._shared[0] = 1

    def is_set(self) -> bool:
        """Return whether the worker was asked to stop."""
        return self._shared[0] == 1


stop_request = StopRequest()


class Heartbeat:
    """A thread that renews the leases of claims on rows of one table while the work makes progress.

    Work that hangs must not keep its leases for ever. So after `stall_seconds` without `progress()`, the process kills
    itself. The leases then run out, and the sweeper repairs the rows.

    `is_given_back`: the work ends when the worker is asked to stop.
    """

    def __init__(self, model: type[LeaseMixin], claims: Sequence[Claim], *, is_given_back: bool = False) -> None:
        self._model: Any = model
        self._is_given_back = is_given_back
        self._claims = claims
        self._lost: set[int] = set()
        self._end = threading.Event()
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def progress(self) -> None:
        """Report that the work makes progress.

        Raises StaleClaim if every claim is lost, because the work is then useless. Raises WorkerStops.
        """
        self._progress = time.monotonic()
        if len(self._lost) == len(self._claims):
            raise StaleClaim(f"all {len(self._claims)} claims are lost")
        if self._is_given_back and stop_request.is_set():
            raise WorkerStops

    def _beat(self) -> None:
        seconds = current().heartbeat_seconds
        while not self._end.wait(seconds):
            if time.monotonic() - self._progress > current().stall_seconds:
                log.critical("no progress, ending this process", extra={"seconds": current().stall_seconds})
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                with session_scope() as s:
                    lost = {c.id for c in self._claims if not leases.keep(s, self._model, c)}
            except SQLAlchemyError as error:
                log.warning("heartbeat failed", extra={"error": type(error).__name__})
                seconds = min(RETRY_SECONDS, current().heartbeat_seconds)
                continue
            self._lost |= lost
            seconds = current().heartbeat_seconds

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
