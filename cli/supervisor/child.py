"""A child process of the supervisor. It dies with the supervisor, and ends together with its process group.

Its output is read without blocking.
"""

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

from worker.linux_process import die_with_parent

LONGEST_LINE = 65536  # bytes; longer lines of output are cut into pieces
Emit = Callable[[str, str], None]


def _nothing(_failed_starts: int) -> None:
    """Do nothing before a start."""


@dataclass(frozen=True)
class Process:
    """How to start one process, to check that it is ready, and to stop it.

    `starts`: the number of its stage. A stage starts when all processes of earlier stages are ready. `stops`: processes
    with a lower number are stopped first. `grace_seconds`: from SIGTERM to SIGKILL. `death_signal`: the kernel sends it
    if the supervisor itself is killed. `before_start`: is called before each start, with the number of deaths since the
    process was last ready.
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
    before_start: Callable[[int], None] = _nothing


class Child:
    """A process that is started again whenever it dies: its running instance or None, and the count of its deaths."""

    def __init__(self, process: Process, emit: Emit, selector: selectors.BaseSelector) -> None:
        """Pass each line of output to `emit(role, line)`. `selector` reports when there is output."""
        self.process = process
        self.running: subprocess.Popen[bytes] | None = None
        self.ready = False
        self.ever_ready = False
        self.deaths = 0  # since it was last steady
        self.failed_starts = 0  # since it was last ready
        self.started_at = 0.0
        self.start_at: float | None = None  # the time of the next start
        self._emit = emit
        self._selector = selector
        self._pipe: int | None = None
        self._unfinished = b""

    def start(self, cwd: Path) -> None:
        """Start the process in a new session, with `cwd` as its working folder.

        Raises OSError and SubprocessError: the process cannot be started now, because this machine lacks memory or has
        too many processes.
        """
        self.start_at, self.ready, self.started_at = None, False, time.monotonic()
        self.process.before_start(self.failed_starts)
        self._pipe, writer = os.pipe()
        try:
            os.set_blocking(self._pipe, False)
            self._selector.register(self._pipe, selectors.EVENT_READ, self)
            self.running = subprocess.Popen(  # noqa: S603 our own command lines
                list(self.process.argv),
                env=dict(self.process.env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                pass_fds=self.process.pass_fds,
                start_new_session=True,  # Ctrl-C reaches only the supervisor, and the group can be killed at once
                preexec_fn=partial(die_with_parent, os.getpid(), self.process.death_signal),
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(writer)

    def has_ended(self) -> bool:
        """Return whether the process has ended. It stays a zombie, so that no other process gets its id."""
        if self.running is None:
            return False
        return os.waitid(os.P_PID, self.running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: signal.Signals) -> None:
        """If the process still runs, send a signal to it, but not to its group."""
        if self.running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.running.pid, number)

    def reap(self) -> int:
        """Kill the rest of the process's group, pass on the last output, and return the exit code.

        A code below 0 is the number of the signal that ended the process.
        """
        assert self.running is not None  # noqa: S101 only a started child is reaped
        # The leader is dead, but nobody has waited for it yet. So no other group can have its id.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.running.pid, signal.SIGKILL)
        code = self.running.wait()
        self.running = None
        while self._pipe is not None and self.read():
            pass
        self._close()
        return code

    def read(self) -> bool:
        """Pass on the output that is there. Return False if there is none, or the process has closed its output."""
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
            with contextlib.suppress(KeyError):  # the output may not have been registered
                self._selector.unregister(self._pipe)
            os.close(self._pipe)
            self._pipe = None
        if self._unfinished:
            self._emit(self.process.role, self._unfinished.decode(errors="replace"))
            self._unfinished = b""
