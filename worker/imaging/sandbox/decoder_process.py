"""The pool's side of a decoding process: starts the process, sends it files, reads the answers, and ends it."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.recipe import PreparedSlice
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.protocol import FILTER_OPTIONAL, FILTER_REQUIRED, REPLY, REQUEST
from worker.imaging.sandbox.reply import ForgedReply, frame_length, read_greeting, read_reply

_ROOT = Path(__file__).parents[3]
_PIPE_BYTES = 1024 * 1024
_READ = 256 * 1024
_USER_TIME, _SYSTEM_TIME = 11, 12  # fields of /proc/PID/stat after the program's name (proc_pid_stat(5))
_LAUNCH = "import sys; sys.path[:0] = sys.argv[1:2]; from worker.imaging.sandbox.child import main; main(*sys.argv[2:])"
_ENVIRONMENT = {
    "PATH": os.defpath,
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""The whole environment of a decoder, except LD_LIBRARY_PATH, which Python itself may need."""


class DecoderSpent(Exception):
    """A decoder must not be used again. The message says why."""


@dataclass(eq=False, slots=True)
class Task:
    """A file to decode. `data` is dropped when there is a `result`. `is_retry`: a decoder died on this file before."""

    data: bytes
    result: list[PreparedSlice] | SliceRejected | None = None
    is_retry: bool = False

    def finish(self, result: list[PreparedSlice] | SliceRejected) -> None:
        self.result = result
        self.data = b""


class Decoder:
    """A child process, and the tasks sent to it, in order. `waited`: the seconds of waiting for the first task."""

    def __init__(self, limits: DecodeLimits, function: str, *, filter_required: bool) -> None:
        """Start the process. `function`: a function of this project, as `module:name`."""
        filter_ = FILTER_REQUIRED if filter_required else FILTER_OPTIONAL
        environment = _ENVIRONMENT | {k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"}
        fields = json.dumps(asdict(limits))
        self.process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-I", "-B", "-c", _LAUNCH, str(_ROOT), str(os.getpid()), function, fields, filter_],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            bufsize=0,
            # A group of its own, so that Ctrl-C or a SIGTERM to the parent's group does not end it. The session is the
            # parent's, because `nice` counts only inside a session.
            process_group=0,
        )
        self.requests, self.replies = (_prepared(pipe) for pipe in (self.process.stdin, self.process.stdout))
        self._max_slices = limits.max_pages
        self._outbox: deque[memoryview] = deque()
        self._inbox = bytearray()
        self.tasks: deque[Task] = deque()
        self.waited = 0.0
        self.sent = 0
        self.answered = 0
        self.is_ready = False
        self.unfiltered: str | None = None

    @property
    def has_to_write(self) -> bool:
        return bool(self._outbox)

    def send(self, task: Task) -> None:
        """Queue one file, and write as much of it as fits into the pipe."""
        self.tasks.append(task)
        self.sent += 1
        self._outbox += (memoryview(REQUEST.pack(len(task.data))), memoryview(task.data))
        self.write()

    def write(self) -> None:
        """Write as much as fits into the pipe. If the process has died, `read` will notice."""
        try:
            while self._outbox:
                written = os.writev(self.requests, [self._outbox[i] for i in range(min(2, len(self._outbox)))])
                while self._outbox and written >= len(self._outbox[0]):
                    written -= len(self._outbox.popleft())
                if self._outbox:
                    self._outbox[0] = self._outbox[0][written:]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._outbox.clear()

    def read(self) -> bool:
        """Read the answers that have come, and finish their tasks. Return False at the end of the pipe.

        Raises DecoderSpent.
        """
        try:
            part = os.read(self.replies, _READ)
        except BlockingIOError:
            return True
        self._inbox += part
        try:
            for frame in self._frames():
                (self._finish if self.is_ready else self._greet)(frame)
        except ForgedReply as error:
            raise DecoderSpent(f"it answered with {error}") from error
        return bool(part)

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used so far. Call it only before `put_down`."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[_USER_TIME]) + int(stat[_SYSTEM_TIME])) / os.sysconf("SC_CLK_TCK")

    def put_down(self) -> int:
        """Kill the process if it still runs, and close its pipes. Return its exit code (negative: a signal)."""
        self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        return code

    def _frames(self) -> Iterator[bytes]:
        while len(self._inbox) >= REPLY.size:
            length = frame_length(self._inbox, self._max_slices)
            if len(self._inbox) < length:
                return
            frame = bytes(self._inbox[:length])
            del self._inbox[:length]
            yield frame

    def _greet(self, frame: bytes) -> None:
        self.unfiltered = read_greeting(frame).unfiltered
        self.is_ready, self.waited = True, 0.0

    def _finish(self, frame: bytes) -> None:
        if not self.tasks:
            raise ForgedReply("an answer without a request")
        result = read_reply(frame, self._max_slices)
        if self.answered and not self.tasks[0].is_retry and _is_short_of_memory(result):
            raise DecoderSpent("memory ran out, which earlier files may have cost")
        self.tasks.popleft().finish(result)
        self.answered += 1
        self.waited = 0.0


def _is_short_of_memory(result: list[PreparedSlice] | SliceRejected) -> bool:
    return isinstance(result, SliceRejected) and result.code == "decoder_memory"


def describe_end(code: int) -> str:
    """Return for people how a process with this exit code ended."""
    if code >= 0:
        return f"The decoder ended with code {code}."
    try:
        return f"The decoder ended by {signal.Signals(-code).name}."
    except ValueError:
        return f"The decoder ended by signal {-code}."


def _prepared(pipe: IO[bytes] | None) -> int:
    """Make the pipe non-blocking and large enough for whole slices, and return its number.

    If the pipe had the default size of 64 KiB, one side would wait for the other.
    """
    if pipe is None:
        raise TypeError("not a pipe")
    number = pipe.fileno()
    os.set_blocking(number, False)
    with suppress(OSError):  # if the user's pipe memory is used up, keep the smaller pipe, which is slower
        fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return number
