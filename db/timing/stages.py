"""Counts the processor time of this process in each stage, from a received file to a recorded prediction."""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum


class Stage(StrEnum):
    """The stages, in the order in which a slice passes them.

    `receive`: a file of a submission is received, hashed and inspected. `inflate`: an entry is read from its archive.
    `hash`: an entry and the pixels of its slices are hashed and stored. `decode`: the file becomes pixels, in the
    sandbox. `resize`: the pixels are scaled to 224 × 224, also in the sandbox. `chunk_file`: prepared slices are
    written to a file and read again. `engine`: the network runs. `record`: rows are claimed, written and closed.
    """

    RECEIVE = "receive"
    INFLATE = "inflate"
    HASH = "hash"
    DECODE = "decode"
    RESIZE = "resize"
    CHUNK_FILE = "chunk_file"
    ENGINE = "engine"
    RECORD = "record"


BOUNDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
"""Upper bounds of a histogram's buckets, in core-seconds per slice. One more bucket holds all higher values."""


@dataclass
class Spent:
    """The core-seconds of a stage, and its slices in buckets by their time."""

    seconds: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, other: "Spent", sign: int = 1) -> None:
        """Add the time and the slices of `other`, or subtract them with the sign -1."""
        self.seconds += sign * other.seconds
        self.counts = [own + sign * more for own, more in zip(self.counts, other.counts, strict=True)]


_spent: dict[Stage, Spent] = {}
_ever: dict[Stage, float] = {}  # core-seconds by stage since the start of this process
_lock = threading.Lock()


def add(stage: Stage, seconds: float, slices: int = 1) -> None:
    """Count core-seconds of a stage. They are divided equally among the slices.

    `slices`: 0 if another call counts the slices, and this call only adds time for them.
    """
    with _lock:
        spent = _spent.setdefault(stage, Spent())
        spent.seconds += seconds
        _ever[stage] = _ever.get(stage, 0.0) + seconds
        if slices:
            spent.counts[bisect_left(BOUNDS, seconds / slices)] += slices


_inside = 0  # how many threads are in a `shared_time` block
_mark = 0.0


@contextmanager
def shared_time(stage: Stage, slices: int) -> Iterator[None]:
    """Count the processor time of the whole process during a block, for libraries that compute in their own threads.

    Several threads may run a `shared_time` block at the same time. When a block ends, also by an error, the time since
    the previous end of a block is counted for the slices of this block. Time that other stages count meanwhile is
    subtracted. See `add` for `slices`.
    """
    global _inside, _mark
    with _lock:
        _mark = _mark if _inside else _elsewhere(stage)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            now = _elsewhere(stage)
            seconds, _mark = max(now - _mark, 0.0), now
        add(stage, seconds, slices)


def _elsewhere(own: Stage) -> float:
    """Return the processor time of this process that no other stage than `own` has counted."""
    return time.process_time() - sum(seconds for stage, seconds in _ever.items() if stage is not own)


def counted() -> dict[Stage, Spent]:
    """Return a copy of the counts that `forget` has not subtracted."""
    with _lock:
        return {stage: Spent(spent.seconds, list(spent.counts)) for stage, spent in _spent.items()}


def forget(published: dict[Stage, Spent]) -> None:
    """Subtract published counts. `published`: what `counted` returned before."""
    with _lock:
        for stage, spent in published.items():
            _spent[stage].add(spent, sign=-1)


@contextmanager
def timed(stage: Stage, slices: int = 1) -> Iterator[None]:
    """Count the processor time of this thread during a block, also if the block fails. See `add` for `slices`."""
    began = time.thread_time()
    try:
        yield
    finally:
        add(stage, time.thread_time() - began, slices)
