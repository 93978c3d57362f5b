"""Unpacks loose files: reads many files of one job in a turn, and records them in common chunks.

A turn for each file would cost over ten times the processor time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from sqlalchemy.orm import Session

from db import broker
from db.broker import Queue
from db.crash_points import crash_point
from db.database import session_scope
from db.ledger import leases, recording
from db.ledger.leases import Claim
from db.ledger.recording import LooseFile, ReadSlice, cancelled_slice
from db.models import Job, Upload
from db.storage import FileDamaged, FileMissing
from db.timing.published import publish
from db.timing.stages import Stage, timed
from worker import claimed
from worker.decoding import read_decoded, stored_entries
from worker.heartbeat import Heartbeat
from worker.imaging.archives.archive import Content, Entry
from worker.imaging.archives.region import BlockUnreadable
from worker.imaging.rejections import ArchiveRefused
from worker.imaging.sandbox.pool import DecoderPool
from worker.jobs.batches import Batch, batches, store_arrays

OWN_FAULTS = (ArchiveRefused, BlockUnreadable, FileDamaged, FileMissing)


T = TypeVar("T")


@dataclass
class SharedTurn:
    """One turn of reading claimed loose files of one job.

    `left`: the numbers of the files that are not recorded yet. `faulty`: the numbers of the files that cannot be read.
    """

    files: Sequence[tuple[Claim, Upload]]
    job: Job
    heartbeat: Heartbeat
    left: set[int] = field(init=False)
    faulty: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Note that no file is recorded yet."""
        self.left = set(range(len(self.files)))

    def read(self, decoders: Callable[[int], DecoderPool], seconds: float) -> None:
        """Read and record the files. After `seconds`, give the rest back, so that workers read files of other jobs.

        Also give back files that cannot be read. A later turn reads each of these files alone, and records the fault.
        `decoders` gives the decoders for an owner. Raises StaleClaim, DecoderUnavailable, OSError.
        """
        cancelled = self.job.cancel_requested_at is not None
        cancelled = cancelled or self._decode(decoders(self.job.owner_id), time.monotonic() + seconds)
        if cancelled and self.left:
            rows = {number: [cancelled_slice(self.files[number][1])] for number in self.left}
            self._write(partial(recording.record_loose_files, files=self._with(rows), array_sha256=None))
        elif self.left:
            self._write(self._give_back)

    def _decode(self, pool: DecoderPool, turn_ends: float) -> bool:
        """Decode and record files until the turn ends. Return whether the job was cancelled meanwhile."""
        with closing(read_decoded(pool, self._entries(), self.heartbeat.progress)) as read:
            for batch in batches(read):
                cancelled = self._record(batch)
                if batch.error is not None:
                    raise batch.error
                if cancelled or time.monotonic() >= turn_ends:
                    return cancelled
        return False

    def _entries(self) -> Iterator[Entry]:
        """Yield the entry of each file that can be read. Its ordinal is the number of the file."""
        for number, (_, upload) in enumerate(self.files):
            read: list[tuple[Entry, Content]] = []
            with suppress(*OWN_FAULTS):
                entries = stored_entries(upload.sha256, upload.filename, self.heartbeat.progress)
                read = [(entry, entry.read()) for entry in entries]
            if not read:
                self.faulty.add(number)
            for entry, content in read:
                yield replace(entry, ordinal=number, read=partial(_itself, content))

    def _record(self, batch: Batch) -> bool:
        """Record the files of a batch with its array. Return whether the job was cancelled meanwhile."""
        array = store_arrays(batch, self.heartbeat)
        crash_point("after-array-before-record")
        rows: dict[int, list[ReadSlice]] = {}
        for row in batch.rows:
            rows.setdefault(row.ordinal, []).append(replace(row, ordinal=0))
        record = partial(recording.record_loose_files, files=self._with(rows), array_sha256=array)
        cancelled = self._write(record)
        self.left -= rows.keys()
        return cancelled

    def _with(self, rows: Mapping[int, list[ReadSlice]]) -> list[LooseFile]:
        return [LooseFile(*self.files[number], rows[number]) for number in sorted(rows)]

    def _give_back(self, s: Session) -> None:
        """Give back the files that are not recorded. This counts as an attempt for unreadable files only."""
        for number in sorted(self.left):
            not_tried = 0 if number in self.faulty else 1
            leases.give_back(s, Upload, self.files[number][0], attempts=Upload.attempts - not_tried)
            broker.wake_after_commit(s, Queue.INGEST)

    def _write(self, act: Callable[[Session], T]) -> T:
        def write() -> T:
            with timed(Stage.RECORD, 0), session_scope() as s:
                result = act(s)
                publish(s)
                return result

        return claimed.patiently(self.heartbeat, write)


def _itself(content: Content) -> Content:
    return content
