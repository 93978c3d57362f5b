"""One child process of the supervisor: started so that it dies with its parent, read without blocking, ended whole."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from worker.parent_death import die_with_parent

LONGEST_LINE = 65536  # bytes; a longer line of output is cut in pieces
Emit = Callable[[str, str], None]


def _nothing(_failed_starts: int) -> None:
    """Nothing is to be prepared before a start."""


@dataclass(frozen=True)
class Process:
    """How one process is started, known to be ready, and stopped.

    `starts`: processes of a stage start when all of the earlier ones are ready. `stops`: those of a lower number are
    stopped first. `death_signal` is what the kernel sends when the supervisor itself is killed.
    """

    role: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], bool]
    starts: int = 1
    stops: int = 1
    grace_seconds: float = 30
    death_signal: signal.Signals = signal.SIGKILL
    pass_fds: tuple[int, ...] = ()
    before_start: Callable[[int], None] = _nothing  # told how often it died since it was last ready


class Child:
    """The running instance of a process, if any, and what is known of its past."""

    def __init__(self, process: Process, emit: Emit, selector: selectors.BaseSelector) -> None:
        """Keep where output goes: `emit(role, line)`, whenever `selector` says that there is some."""
        self.process = process
        self.running: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.ever_ready = False
        self.deaths = 0  # since it was last steady
        self.failed_starts = 0  # since it was last ready
        self.started_at = 0.0
        self.start_at: float | None = None  # to be started again then
        self._emit = emit
        self._selector = selector
        self._pipe: int | None = None
        self._unfinished = b""

    def start(self, cwd: Path) -> None:
        """Start the process in a session of its own, standing in `cwd`."""
        self.process.before_start(self.failed_starts)
        self.start_at, self.ready, self.started_at = None, False, time.monotonic()
        reader, writer = os.pipe()
        try:
            self.running = subprocess.Popen(  # noqa: S603 our own command lines
                list(self.process.argv),
                env=dict(self.process.env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=self.process.pass_fds,
                start_new_session=True,  # a terminal's Ctrl-C reaches the supervisor only; the group dies as one
                preexec_fn=partial(die_with_parent, os.getpid(), self.process.death_signal),
            )
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        self._pipe = reader
        self._selector.register(reader, selectors.EVENT_READ, self)

    def has_ended(self) -> bool:
        """Return whether the process ended, without waiting for it: it stays a zombie, and its id stays its own."""
        if self.running is None:
            return False
        return os.waitid(os.P_PID, self.running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone; one that is gone is left alone."""
        if self.running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.running.pid, number)

    def reap(self) -> int:
        """End what the process left in its group, pass on its last output and return its code (below 0: a signal)."""
        assert self.running is not None  # noqa: S101 only a started child is reaped
        # The leader is dead but not waited for, so that the group's id cannot be another's by now.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.running.pid, signal.SIGKILL)
        code = self.running.wait()
        self.running = None
        while self._pipe is not None and self.read():
            pass
        self._close()
        return code

    def read(self) -> bool:
        """Pass on the output that is there now; False where there is none, or no more to come."""
        if self._pipe is None:
            return False
        try:
            data = os.read(self._pipe, LONGEST_LINE)
        except BlockingIOError:
            return False
        if not data:
            self._close()
            return False
        *lines, rest = (self._unfinished + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        self._unfinished = rest
        for line in lines:
            self._emit(self.process.role, line.decode(errors="replace").rstrip("\r"))
        return True

    def _close(self) -> None:
        if self._pipe is not None:
            self._selector.unregister(self._pipe)
            os.close(self._pipe)
            self._pipe = None
        if self._unfinished:
            self._emit(self.process.role, self._unfinished.decode(errors="replace"))
            self._unfinished = b""
