"""Starts processes, restarts those that die, and stops all in order. Uses one thread, and leaves no process behind.

supervisord, honcho and circus cannot replace this module, because none of them can do all of this: start a stage when
the stage before is ready, end the children when the supervisor itself is killed, and pass a listening socket to a
restarted process.
"""

import contextlib
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import SubprocessError
from types import FrameType

from cli.errors import Unavailable
from cli.supervisor.child import Child, Emit, Process

BACKOFF_SECONDS = (0.5, 1, 2, 4, 8, 15, 30)
STEADY_SECONDS = 60  # if a process lived this long, its next death counts as the first one
FAILED_STARTS = 3  # if a process that was never ready has died this often, all processes are stopped
SLOW_START_SECONDS = 30  # after this time, `up` says which processes it waits for
FORCED_SECONDS = 3  # after a second interruption, a process with a gentle death signal has this long to end


class Supervisor:
    """Runs processes until a signal stops it. It replaces the signal handlers of its own process permanently."""

    def __init__(self, processes: Sequence[Process], emit: Emit, cwd: Path) -> None:
        """Keep the processes. Each line of their output goes to `emit(role, line)`. Their working folder is `cwd`.

        If `emit` raises OSError, only this line is lost.
        """
        self._selector = selectors.DefaultSelector()
        self._write = emit
        self._children = [Child(process, self._emit, self._selector) for process in processes]
        self._cwd = cwd
        self._stops_asked = 0

    def run(self, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        """Start all processes, and keep them running until SIGTERM, SIGINT or SIGHUP comes.

        Call `on_ready` when all processes are ready.

        After the signal, call `on_stop`, and stop the processes in order. A second signal stops all of them
        immediately.

        Raises:
            Unavailable: a process ended too often before it was ready, or cannot be started. The others are stopped.
        """
        self._take_signals()
        try:
            self._start_all()
            if not self._stops_asked:
                on_ready()
            while not self._stops_asked:
                self._turn(1.0)
        finally:
            try:
                on_stop()
            finally:
                self._stop_all()

    def _emit(self, role: str, line: str) -> None:
        with contextlib.suppress(OSError):
            self._write(role, line)

    def _take_signals(self) -> None:
        """Count SIGTERM, SIGINT and SIGHUP as requests to stop. SIGHUP comes when the terminal is closed.

        Let these signals and the death of a child wake the loop.
        """
        reader, self._waker = socket.socketpair()
        reader.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._asked_to_stop)
        signal.signal(signal.SIGINT, self._asked_to_stop)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup lets a process ignore SIGHUP, so that it goes on
            signal.signal(signal.SIGHUP, self._asked_to_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def _asked_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops_asked += 1

    def _start_all(self) -> None:
        for stage in sorted({child.process.starts for child in self._children}):
            members = [child for child in self._children if child.process.starts == stage]
            for child in members:
                self._start(child)
            say_at = time.monotonic() + SLOW_START_SECONDS
            while not self._stops_asked and (waits_for := [c.process.role for c in members if not c.ready]):
                self._turn(0.05)
                if time.monotonic() >= say_at:
                    self._emit("up", f"still waiting for {', '.join(waits_for)}; the output above may say why")
                    say_at = math.inf

    def _turn(self, seconds: float) -> None:
        """Pass on output, notice deaths and readiness, and start the processes that are due.

        Wait at most `seconds` for something to happen.
        """
        waiting = any(child.running and not child.ready for child in self._children)
        due = [child.start_at for child in self._children if child.start_at is not None]
        self._pump(min([0.1 if waiting else seconds, *(max(0.0, at - time.monotonic()) for at in due)]))
        for child in self._children:
            if child.has_ended():
                self._bury(child)
            elif child.running and not child.ready and child.process.ready():
                child.ready = child.ever_ready = True
                child.failed_starts = 0
            elif child.start_at is not None and time.monotonic() >= child.start_at and not self._stops_asked:
                self._start(child)

    def _pump(self, wait: float) -> None:
        for key, _events in self._selector.select(wait):
            if isinstance(key.data, Child):
                key.data.read()
            else:  # a signal wrote bytes to wake the loop
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)

    def _start(self, child: Child) -> None:
        try:
            child.start(self._cwd)
        except (OSError, SubprocessError) as error:
            self._start_later(child, f"could not start ({getattr(error, 'strerror', None) or error})")

    def _bury(self, child: Child) -> None:
        """Reap a dead child and plan its next start."""
        code = child.reap()
        child.failed_starts += 0 if child.ready else 1
        self._start_later(child, f"ended by signal {-code}" if code < 0 else f"ended with code {code}")

    def _start_later(self, child: Child, how: str) -> None:
        """Plan the next start of a child that does not run. `how`: how it ended.

        Raises:
            Unavailable: the child was never ready, and has died too often.
        """
        if child.ever_ready and time.monotonic() - child.started_at > STEADY_SECONDS:
            child.deaths = 0
        pause = BACKOFF_SECONDS[min(child.deaths, len(BACKOFF_SECONDS) - 1)]
        child.deaths += 1
        if not child.ever_ready and child.deaths >= FAILED_STARTS:
            raise Unavailable(f"{child.process.role} {how} each time it was started; its output is above")
        child.start_at = time.monotonic() + pause
        self._emit("up", f"{child.process.role} {how}; starting it again in {pause:g} s")

    def _stop_all(self) -> None:
        if any(child.running for child in self._children):
            self._emit("up", "stopping; press Ctrl-C again to stop everything at once")
        for number in sorted({child.process.stops for child in self._children}):
            group = [child for child in self._children if child.process.stops == number and child.running]
            for child in group:
                child.signal(signal.SIGTERM)
            self._wait_for_end(group)

    def _wait_for_end(self, group: list[Child]) -> None:
        started = time.monotonic()
        forced_at: float | None = None
        while group:
            self._pump(0.1)
            if self._stops_asked > 1 and forced_at is None:
                forced_at = time.monotonic()
            for child in list(group):
                limit = started + child.process.grace_seconds
                if forced_at is not None:
                    limit = min(limit, forced_at + _forced_grace(child.process))
                if not child.has_ended() and time.monotonic() < limit:
                    continue
                if not child.has_ended():
                    self._emit("up", f"{child.process.role} did not end in time and is killed")
                    child.signal(signal.SIGKILL)
                child.reap()
                group.remove(child)


def _forced_grace(process: Process) -> float:
    """Return how many seconds a process has to end after a second signal.

    If its death signal is SIGKILL, it has 0 seconds. The broker has a gentler signal, because it must flush its data.
    """
    return 0 if process.death_signal == signal.SIGKILL else FORCED_SECONDS
