"""Unpacks uploads: reads the entries, decodes them in the sandbox, and records slices and prepared chunks in order.

A turn is the time from one claim of an upload until the upload is closed or given back. A long upload takes several
turns.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache, partial
from itertools import chain, islice

from sqlalchemy.orm import Session

from db.crash_points import crash_point
from db.database import get_engine, in_transaction, is_too_slow, read_scope, session_scope
from db.ledger import leases, queue, recording
from db.ledger.leases import Claim, StaleClaim
from db.ledger.recording import ReadSlice
from db.models import Job, Upload
from db.storage import FileDamaged, FileMissing, storage
from db.timing.published import publish
from db.timing.stages import Stage, timed
from worker import claimed
from worker.decoding import new_decoders, read_decoded, stored_entries
from worker.heartbeat import Heartbeat
from worker.imaging.archives.archive import Entry, PassedOver
from worker.imaging.archives.entries import NoRoom
from worker.imaging.archives.region import BlockUnreadable
from worker.imaging.rejections import ArchiveRefused
from worker.imaging.sandbox.pool import DecoderPool
from worker.jobs.batches import ROWS_A_TRANSACTION, Batch, batches, cancelled_row, rejected_row, store_arrays
from worker.jobs.budget import OVER_BUDGET, Budget, count_failures
from worker.jobs.loose_files import SharedTurn

log = logging.getLogger(__name__)

# the most claims without progress whose worker died or whose file was at fault; outages are not counted
MAX_ATTEMPTS = 5
TURN_SECONDS = 60.0  # after this time, an upload is given back if an upload of another job waits

Row = Callable[[Entry], ReadSlice]


@cache
def _pool() -> DecoderPool:
    """Return the decoders of this process. The process keeps them for later uploads."""
    return new_decoders()


def get_ready() -> None:
    """Start a decoder, and set up the database and the storage. The first job then need not wait for these."""
    start_decoder()
    get_engine()
    storage()


def start_decoder() -> None:
    """Start a decoder ahead of the next job."""
    _pool().start_ahead()


def decoders(owner_id: int) -> DecoderPool:
    """Return the decoders of this process for an owner. None of them has read a file of another owner."""
    pool = _pool()
    pool.serve(owner_id)
    return pool


@dataclass(frozen=True)
class Taken:
    """Claimed uploads of one job: an archive, or loose files."""

    files: list[tuple[Claim, Upload]]
    job: Job


def unpack_next(worker: str) -> bool:
    """Claim the next upload, and unpack it. Return False if no upload waits.

    If the upload is a loose file, read further loose files of its job in the same turn.
    """
    if not claimed.may_claim():
        return False
    with timed(Stage.RECORD, 0):
        taken = in_transaction(lambda s: _claim(s, worker))
    if taken is None:
        return False
    crash_point("after-claim-upload")
    for claim, upload in taken.files:
        log.info("unpacking", extra={"job": upload.job_id, "upload": upload.id, "fence": claim.fence})
    if len(taken.files) > 1:
        _unpack_together(taken)
    else:
        _unpack_alone(*taken.files[0], taken.job)
    return True


def _unpack_together(taken: Taken) -> None:
    def fail(error: Exception) -> None:
        raise error

    def put_off(error: Exception, is_attempt: bool) -> None:
        for claim, upload in taken.files:
            with suppress(StaleClaim):  # raised for files that are recorded already
                _put_off(claim, upload, taken.job, error, is_attempt)

    claimed.carry_out(
        Upload,
        [claim for claim, _ in taken.files],
        lambda heartbeat: SharedTurn(taken.files, taken.job, heartbeat).read(decoders, TURN_SECONDS),
        fail=fail,
        put_off=put_off,
        tries=MAX_ATTEMPTS,
    )


def _unpack_alone(claim: Claim, upload: Upload, job: Job) -> None:
    budget = Budget.left(upload)

    def fail(error: Exception) -> None:
        match error:
            case FileMissing():
                _give_up(claim, upload, "file_missing")
            case FileDamaged() | BlockUnreadable():
                _give_up(claim, upload, "file_damaged")
            case NoRoom():
                _give_up(claim, upload, "no_room")
            case ArchiveRefused():
                _close(claim, upload, str(error))
            case _:
                raise error

    def work(heartbeat: Heartbeat) -> None:
        _unpack(Reading(claim, upload, job, budget, heartbeat))

    claimed.carry_out(
        Upload,
        [claim],
        work,
        fail=fail,
        put_off=lambda error, is_attempt: _put_off(claim, upload, job, error, is_attempt),
        own_faults=(FileMissing, FileDamaged, BlockUnreadable, NoRoom),
        tries=MAX_ATTEMPTS,
    )


def _claim(s: Session, worker: str) -> Taken | None:
    """Claim the next upload, or return None if no upload waits.

    If the upload is a loose file, also claim further loose files of its job.
    """
    claim = queue.claim_upload(s, worker)
    if claim is None:
        return None
    upload = s.get_one(Upload, claim.id, populate_existing=True)
    files = [(claim, upload), *queue.claim_loose_files(s, worker, upload)]
    return Taken(files, s.get_one(Job, upload.job_id))


def _close(claim: Claim, upload: Upload, error: str | None = None) -> None:
    with timed(Stage.RECORD, 0), session_scope() as s:
        recording.close_upload(s, claim, upload, error)
        publish(s)


def _give_up(claim: Claim, upload: Upload, reason: str) -> None:
    log.error("upload failed", extra={"job": upload.job_id, "upload": upload.id, "reason": reason})
    _close(claim, upload, reason)


def _put_off(claim: Claim, upload: Upload, job: Job, error: Exception, is_attempt: bool) -> None:
    """Put off an upload. A statement that the database ended because it took too long counts as an attempt.

    If the job was cancelled before this turn, the error prevented the listing of its files. The upload is then closed
    as `not_listed`, because otherwise the job would not end during an outage.
    """
    is_slow = is_too_slow(error)
    with session_scope() as s:
        if job.cancel_requested_at is not None:
            recording.close_upload(s, claim, upload, "not_listed")
        elif is_slow and leases.claimed_row(s, Upload, claim).attempts >= MAX_ATTEMPTS:
            recording.close_upload(s, claim, upload, "database_slow")
        else:
            leases.put_off(s, Upload, claim, is_attempt=is_attempt or is_slow)


class End(Enum):
    """How a turn of reading an upload ends.

    `WHOLE`: the last entry was read. `CLOSED`: the last entry was read, and the upload is closed. `GIVEN_BACK`: the
    turn is over, and a later turn reads the rest.
    """

    WHOLE = auto()
    CLOSED = auto()
    CANCELLED = auto()
    OVER_BUDGET = auto()
    GIVEN_BACK = auto()


@dataclass(frozen=True)
class Reading:
    """One turn of reading an upload: the claim, the upload, and the rest of its budget."""

    claim: Claim
    upload: Upload
    job: Job
    budget: Budget
    heartbeat: Heartbeat
    passed_over: PassedOver = field(default_factory=PassedOver)

    def end(self, cancelled: bool = False) -> End:
        """Return CANCELLED if the job is cancelled, OVER_BUDGET if the budget is spent, or else WHOLE."""
        if cancelled or self.job.cancel_requested_at is not None:
            return End.CANCELLED
        return End.OVER_BUDGET if self.budget.is_spent else End.WHOLE

    def record(self, batch: Batch, decode_seconds: float) -> bool:
        """Record a batch with its array. Return whether the job was cancelled meanwhile. Raises StaleClaim.

        The transaction that records the last batch also closes the upload, unless the job was cancelled. A second
        transaction would delay the worker that is woken to predict the batch.
        """
        array = store_arrays(batch, self.heartbeat)
        crash_point("after-array-before-record")
        self.budget.spend(count_failures(batch.rows), decode_seconds)
        return claimed.patiently(self.heartbeat, partial(self._write, batch, array, decode_seconds))

    def _write(self, batch: Batch, array_sha256: str | None, decode_seconds: float) -> bool:
        with timed(Stage.RECORD, 0), session_scope() as s:
            cancelled = recording.record_read(
                s,
                self.claim,
                self.upload,
                batch.rows,
                array_sha256,
                decode_seconds=decode_seconds,
                decode_failures=count_failures(batch.rows),
                dicomdirs=self.passed_over.dicomdirs,
            )
            if batch.is_last and not cancelled:
                recording.close_upload(s, self.claim, self.upload)
            publish(s)
            return cancelled

    def give_way(self) -> bool:
        """Give the upload back if an upload of another job waits for its turn. Return whether it was given back."""
        give = partial(queue.give_way, claim=self.claim, upload=self.upload)
        return claimed.patiently(self.heartbeat, lambda: in_transaction(give))


def _unpack(reading: Reading) -> None:
    upload = reading.upload
    if upload.attempts > MAX_ATTEMPTS:
        _close(reading.claim, upload, f"{MAX_ATTEMPTS} workers died while unpacking it, without progress")
        return
    with read_scope() as s:
        done = recording.read_ordinals(s, upload.id)
    is_whole = upload.entries is not None and len(done) >= upload.entries
    if is_whole or _read_rest(reading, done):
        claimed.patiently(reading.heartbeat, partial(_close, reading.claim, upload))


def _read_rest(reading: Reading, done: set[int]) -> bool:
    """Read the entries that no earlier turn has recorded. Return whether the upload is still to be closed."""
    end = reading.end()
    entries = _entries(reading, done)
    ahead: deque[Entry] = deque()  # taken for decoding, but not recorded yet
    if end is End.WHOLE:
        end = _decode(reading, entries, ahead)
    if end is End.CANCELLED:
        _list_rest(reading, chain(ahead, entries), cancelled_row)
    elif end is End.OVER_BUDGET:
        _list_rest(reading, chain(ahead, entries), lambda entry: rejected_row(entry, OVER_BUDGET))
    return end not in (End.GIVEN_BACK, End.CLOSED)


def _decode(reading: Reading, entries: Iterator[Entry], ahead: deque[Entry]) -> End:
    """Decode and record entries until something ends the turn.

    Afterwards, `ahead` holds the entries that were taken for decoding but not recorded.
    """
    began = time.monotonic()
    first = list(islice(entries, 1))
    # In a packed TAR, each turn first unpacks everything before its first new entry again. It then reads new entries
    # for at least as long as that took. So all turns together take at most twice as long as a single reading.
    reached = time.monotonic()
    turn_ends = reached + max(TURN_SECONDS, reached - began)
    pool = decoders(reading.job.owner_id)
    used = pool.cpu_seconds
    with closing(read_decoded(pool, _noting(ahead, chain(first, entries)), reading.heartbeat.progress)) as read:
        for batch in batches(read):
            before, used = used, pool.cpu_seconds
            cancelled = reading.record(batch, used - before)
            if batch.error is not None:
                raise batch.error
            while ahead and ahead[0].ordinal <= batch.rows[-1].ordinal:
                ahead.popleft()
            if batch.is_last and not cancelled:
                return End.CLOSED
            if (end := reading.end(cancelled)) is not End.WHOLE:
                return end
            is_last = batch.rows[-1].ordinal + 1 == reading.upload.entries
            if not is_last and time.monotonic() >= turn_ends and reading.give_way():
                return End.GIVEN_BACK
    return End.WHOLE


def _entries(reading: Reading, done: set[int]) -> Iterator[Entry]:
    """Return the entries that are not recorded yet."""
    upload, progress = reading.upload, reading.heartbeat.progress
    entries = stored_entries(upload.sha256, upload.filename, progress, reading.passed_over)
    return (entry for entry in entries if entry.ordinal not in done)


def _noting(taken: deque[Entry], entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        taken.append(entry)
        yield entry


def _list_rest(reading: Reading, entries: Iterable[Entry], row: Row) -> None:
    """Record the entries without reading them, because every received entry must get an outcome.

    If the listing breaks off, record what was listed before.
    """
    batch = Batch()
    try:
        for entry in entries:
            batch.rows.append(row(entry))
            if len(batch.rows) >= ROWS_A_TRANSACTION:
                reading.record(batch, 0.0)
                batch = Batch()
    finally:
        reading.record(batch, 0.0)
