"""A pool of confined decoding processes. A file that kills its decoder is rejected, but the job and the worker go on.

No library does this. In `concurrent.futures`, the whole pool breaks when one process dies. `pebble` restarts processes,
but it unpickles what the processes send. A decoder that a file has taken over could attack the parent with a pickle.
"""

import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Generic, TypeVar

from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.recipe import PreparedSlice
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.decoder_process import Decoder, DecoderSpent, Task, describe_end
from worker.imaging.sandbox.decoders import Decoders

__all__ = ["DecodeLimits", "DecoderPool"]

logger = logging.getLogger(__name__)

K = TypeVar("K")
Result = list[PreparedSlice] | SliceRejected

_PIPELINE = 2
"""Files a decoder holds: the one it decodes and the next, so that it need not wait for the pool."""
_AHEAD = 4
"""Files taken from the source per decoder before the oldest one is yielded."""
_AHEAD_BYTES = 64 * 1024 * 1024
_FILES_A_DECODER = 5_000
"""Files sent to one process. Starting another takes a quarter of a second, as long as decoding 100 small files."""
_START_SECONDS = 60.0


class DecoderPool(AbstractContextManager["DecoderPool"]):
    """At most `size` decoders. They are started when needed, and kept between files and calls of `map` for one owner.

    A file may take over its decoder, which could then forge the slices of later files. So a decoder never serves two
    owners (`serve`), and is replaced after `_FILES_A_DECODER` files.

    Each decoder is a process without environment, network and files, and with limited memory and time (`seccomp`). A
    decoder that dies is replaced. Its file is tried once more in a fresh decoder, because an earlier file or a kill
    from outside may be to blame. If that decoder dies too, the file is rejected as `decoder_crash`. A file that takes
    too much processor or clock time is rejected at once as `decoder_timeout`. The clock runs only while the pool waits.

    Use the pool in one thread at a time, in the process that made it. It works inside a daemonic process (Celery
    prefork).
    """

    def __init__(
        self,
        size: int,
        limits: DecodeLimits,
        *,
        function: str = "worker.imaging.formats.decode:decode",
        filter_required: bool = True,
    ) -> None:
        """Keep the settings.

        `function`: a function like `decode.decode`, as `module:name`. `filter_required`: a decoder without a system
        call filter decodes nothing.
        """
        if size < 1:
            raise ValueError("a pool needs at least one decoder")
        self._size = size
        self._limits = limits
        self._decoders = Decoders(limits, function, filter_required=filter_required)
        self._served: Hashable = None
        self._queue: deque[Task] = deque()
        self._owner = os.getpid()
        self._is_mapping = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all decoders."""
        self._decoders.close()

    def serve(self, owner: Hashable) -> None:
        """Decode for this owner from now on. If another owner was served before, use fresh decoders."""
        if self._served not in (None, owner):
            self._decoders.end_all()
        self._served = owner

    def start_ahead(self) -> None:
        """Start a decoder in the background for the next owner, so that the first file need not wait for it."""
        self._decoders.start_ahead()

    @property
    def cpu_seconds(self) -> float:
        """The processor time that all decoders have used so far."""
        return self._decoders.cpu_seconds()

    @property
    def process_ids(self) -> list[int]:
        """The process ids of the decoders that run now."""
        return [decoder.process.pid for decoder in self._decoders.running]

    @property
    def unfiltered(self) -> str | None:
        """Why the last decoder that started has no system call filter, or None."""
        return self._decoders.unfiltered

    def map(self, items: Iterable[tuple[K, bytes | SliceRejected]]) -> Iterator[tuple[K, Result]]:
        """Decode files in order. Yield each key with its slices, or with the reason why the file is rejected.

        A SliceRejected among `items` is passed on in its place. Files are taken from `items` ahead of their decoding,
        at most `_AHEAD` files for each decoder. After 64 MB, no further file is taken. If `items` raises an error, it
        is raised after all earlier results have been yielded.

        Raises DecoderUnavailable if decoders cannot be started.
        """
        if self._is_mapping or os.getpid() != self._owner:
            raise RuntimeError("a pool decodes for one caller at a time, in the process that made it")
        self._is_mapping = True
        ahead = _Ahead(items, _AHEAD * self._size)
        try:
            while True:
                self._turn(block=False)
                for task in ahead.fill():
                    self._queue.append(task)
                    self._dispatch()
                if not ahead.tasks:
                    break
                while ahead.tasks[0][1].result is None:
                    self._turn(block=True)
                key, task = ahead.tasks.popleft()
                if task.result is not None:
                    yield key, task.result
        finally:
            self._abandon()
            self._is_mapping = False
        if ahead.failure is not None:
            raise ahead.failure

    def _dispatch(self) -> None:
        """Send queued files to idle decoders, then to new decoders, and then behind the files of busy decoders."""
        while self._queue:
            decoder = self._pick(self._queue[0])
            if decoder is None:
                return
            decoder.send(self._queue.popleft())

    def _pick(self, task: Task) -> Decoder | None:
        """Return the decoder for a file, or None if all are busy. Prefer a decoder that is ready."""
        usable = [decoder for decoder in self._decoders.running if not _is_worn(decoder)]
        if len(usable) < self._size and (task.is_retry or all(decoder.tasks for decoder in usable)):
            usable.append(started := self._decoders.start())
            if task.is_retry:
                return started
        # the decoder that started first is ready first
        able = [decoder for decoder in usable if decoder.is_ready] or usable[:1]
        least = min(able, key=lambda decoder: len(decoder.tasks))
        return least if len(least.tasks) < _PIPELINE else None

    def _turn(self, *, block: bool) -> None:
        """Do one round: send files, wait for answers, read them, and replace decoders that died or take too long."""
        self._dispatch()
        busy = [decoder for decoder in self._decoders.running if decoder.tasks or not decoder.is_ready]
        if not busy:
            return
        poll = select.poll()
        for decoder in busy:
            poll.register(decoder.replies, select.POLLIN)
            if decoder.has_to_write:
                poll.register(decoder.requests, select.POLLOUT)
        allowed = min(self._allowed(decoder) - decoder.waited for decoder in busy)
        began = time.monotonic()
        ready = {handle for handle, _ in poll.poll(max(0, allowed) * 1000 if block else 0)}
        waited = time.monotonic() - began
        for decoder in busy:
            decoder.waited += waited
            self._attend(decoder, ready)

    def _allowed(self, decoder: Decoder) -> float:
        if not decoder.is_ready:
            return _START_SECONDS
        return self._limits.wall_seconds * self._limits.stretch(len(decoder.tasks[0].data) if decoder.tasks else 0)

    def _attend(self, decoder: Decoder, ready: set[int]) -> None:
        was_ready = decoder.is_ready
        if decoder.requests in ready:
            decoder.write()
        try:
            is_open = decoder.replies not in ready or decoder.read()
        except DecoderSpent as reason:
            logger.warning("decoder %d is replaced: %s", decoder.process.pid, reason)
            is_open = False
        if decoder.is_ready and not was_ready:
            self._decoders.welcome(decoder)
        if not is_open:
            self._replace(decoder)
        elif decoder.waited >= self._allowed(decoder):
            self._replace(decoder, timed_out=True)
        elif _is_worn(decoder) and not decoder.tasks:
            self._decoders.end(decoder)

    def _replace(self, decoder: Decoder, *, timed_out: bool = False) -> None:
        """End a decoder. Its first file gets an outcome or another try. Its other files go back to the front."""
        code = self._decoders.end(decoder)
        if not decoder.is_ready:
            self._decoders.count_failed_start(code)
        elif decoder.tasks:
            head = decoder.tasks[0]
            if timed_out or code == -signal.SIGXCPU:
                head.finish(SliceRejected("decoder_timeout", "Decoding was stopped at its time limit."))
            elif head.is_retry:
                head.finish(SliceRejected("decoder_crash", describe_end(code)))
            head.is_retry = True
        self._queue.extendleft(task for task in reversed(decoder.tasks) if task.result is None)

    def _abandon(self) -> None:
        """Forget all files that are not decoded yet, and end the decoders that work on them."""
        self._queue.clear()
        for decoder in [decoder for decoder in self._decoders.running if decoder.tasks]:
            self._decoders.end(decoder)


def _is_worn(decoder: Decoder) -> bool:
    return decoder.sent >= _FILES_A_DECODER


class _Ahead(Generic[K]):
    """Takes files from a source before they are needed. `tasks`: the taken files in order, each with its key.

    `failure`: the error that ended the source, or None.
    """

    def __init__(self, source: Iterable[tuple[K, bytes | SliceRejected]], most: int) -> None:
        self._source, self._most = iter(source), most
        self._is_ended = False
        self.tasks: deque[tuple[K, Task]] = deque()
        self.failure: Exception | None = None

    def fill(self) -> Iterator[Task]:
        """Take files while there is room. Yield the files that have to be decoded."""
        held = sum(len(task.data) for _, task in self.tasks)
        while not self._is_ended and len(self.tasks) < self._most and held < _AHEAD_BYTES:
            try:
                key, content = next(self._source)
            except StopIteration:
                self._is_ended = True
                return
            except Exception as error:  # `map` raises it again, after all earlier results
                self._is_ended, self.failure = True, error
                return
            task = Task(b"" if isinstance(content, SliceRejected) else content)
            self.tasks.append((key, task))
            if isinstance(content, SliceRejected):
                task.finish(content)
                continue
            held += len(content)
            yield task
