"""Unpacks uploads: entries are read, decoded in the sandbox, and recorded in order as slices and prepared chunks."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from db.crash_points import crash_point
from db.database import current, in_transaction, read_scope, session_scope
from db.ledger import queue, recording
from db.ledger.leases import Claim
from db.ledger.recording import ReadSlice
from db.models import Job, Outcome, Upload
from db.storage import FileDamaged, FileMissing, storage
from worker import claimed
from worker.decoding import Read, limited_entries, new_decoders, npy_bytes, read_decoded
from worker.heartbeat import Heartbeat
from worker.imaging.archives.archive import Entry
from worker.imaging.recipe import PreparedSlice, SeriesInfo
from worker.imaging.rejections import ArchiveRefused, SliceRejected
from worker.imaging.sandbox.pool import DecoderPool
from worker.jobs.plain_copy import plain_copy, remove_plain_copy

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # claims of an upload that ended without a word or progress: what was away is not counted
ROWS_A_TRANSACTION = 1_000  # where many entries are rejected, or cancelled, and no chunk fills


@cache
def decoders() -> DecoderPool:
    """Return this process's decoders, which are kept once they are started."""
    return new_decoders()


def unpack_next(worker: str) -> bool:
    """Claim the upload whose turn it is and unpack it. Return False if there is none."""
    if not claimed.may_claim():
        return False
    taken = in_transaction(lambda s: _claim(s, worker))
    if taken is None:
        return False
    upload, claim, cancelled = taken
    crash_point("after-claim-upload")
    log.info("unpacking", extra={"job": upload.job_id, "upload": upload.id, "fence": claim.fence})

    def fail(error: Exception) -> None:
        match error:
            case FileMissing():
                _fail(claim, upload, "file_missing")
            case FileDamaged():
                _fail(claim, upload, "file_damaged")
            case ArchiveRefused():
                _fail(claim, upload, str(error))
            case _:
                raise error

    claimed.carry_out(Upload, [claim], lambda heartbeat: _unpack(claim, upload, heartbeat, cancelled), fail=fail)
    return True


def _claim(s: Session, worker: str) -> tuple[Upload, Claim, bool] | None:
    """Claim the upload whose turn it is; return it, and whether its job was cancelled. Return None if there is none."""
    claim = queue.claim_upload(s, worker)
    if claim is None:
        return None
    upload = s.get_one(Upload, claim.id, populate_existing=True)
    return upload, claim, s.get_one(Job, upload.job_id).cancel_requested_at is not None


def _close(claim: Claim, upload: Upload, error: str | None = None) -> None:
    with session_scope() as s:
        recording.close_upload(s, claim, upload, error)


def _fail(claim: Claim, upload: Upload, error: str) -> None:
    _close(claim, upload, error)
    remove_plain_copy(upload.id)


def _unpack(claim: Claim, upload: Upload, heartbeat: Heartbeat, cancelled: bool) -> None:
    if upload.attempts > MAX_ATTEMPTS:
        _fail(claim, upload, f"{MAX_ATTEMPTS} workers died while they unpacked it, without progress")
        return
    with read_scope() as s:
        done = recording.read_ordinals(s, upload.id)
    if upload.entries is None or len(done) < upload.entries:
        _read_rest(claim, upload, heartbeat, done, cancelled)
    claimed.patiently(heartbeat, partial(_close, claim, upload))
    remove_plain_copy(upload.id)


def _read_rest(claim: Claim, upload: Upload, heartbeat: Heartbeat, done: set[int], cancelled: bool) -> None:
    """Read the entries that no earlier reading has recorded, or list them as cancelled."""
    path = storage().received_path(upload.sha256, heartbeat.progress)
    if done and not cancelled and upload.kind.startswith("tar."):  # tar.gz, tar.bz2, tar.xz
        path = plain_copy(claim, path, heartbeat.progress) or path
    entries = (e for e in limited_entries(path, upload.filename, heartbeat.progress) if e.ordinal not in done)
    ahead: deque[Entry] = deque()  # taken for decoding, and not recorded yet
    if not cancelled:
        read = read_decoded(decoders(), _noting(ahead, entries), heartbeat.progress)
        for batch in _batches(read):
            array = storage().put(npy_bytes(batch.arrays)) if batch.arrays else None
            storage().sync()
            crash_point("after-array-before-record")
            record = partial(_record, claim, upload, batch.rows, array)
            cancelled = claimed.patiently(heartbeat, record)
            while ahead and ahead[0].ordinal <= batch.rows[-1].ordinal:
                ahead.popleft()
            if cancelled:
                read.close()
                break
    if cancelled:
        _cancel_rest(claim, upload, chain(ahead, entries), heartbeat)


def _noting(taken: deque[Entry], entries: Iterable[Entry]) -> Iterator[Entry]:
    for entry in entries:
        taken.append(entry)
        yield entry


def _record(claim: Claim, upload: Upload, rows: list[ReadSlice], array_sha256: str | None) -> bool:
    with session_scope() as s:
        return recording.record_read(s, claim, upload, rows, array_sha256)


def _cancel_rest(claim: Claim, upload: Upload, entries: Iterable[Entry], heartbeat: Heartbeat) -> None:
    """Record the entries as cancelled without reading them: each was received, and gets its outcome."""
    rest = iter(entries)
    while rows := [
        ReadSlice(entry.ordinal, 0, entry.name, Outcome.CANCELLED) for entry in islice(rest, ROWS_A_TRANSACTION)
    ]:
        claimed.patiently(heartbeat, partial(_record, claim, upload, rows, None))


@dataclass
class Batch:
    """The rows that one transaction records, and the arrays of those that were prepared."""

    rows: list[ReadSlice] = field(default_factory=list)
    arrays: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, entry: Entry, sha256: str | None, result: list[PreparedSlice] | SliceRejected) -> None:
        """Add an entry: a row for a rejection, or a row and an array for each prepared frame."""
        if isinstance(result, SliceRejected):
            rejected = Outcome.REJECTED
            self.rows.append(ReadSlice(entry.ordinal, 0, entry.name, rejected, result.code, result.detail, sha256))
            return
        for prepared in result:
            self.rows.append(_row(entry, sha256, prepared, len(self.arrays)))
            self.arrays.append(prepared.pixels)


def _row(entry: Entry, sha256: str | None, prepared: PreparedSlice, array_row: int) -> ReadSlice:
    series = prepared.series if prepared.series and prepared.series.series_uid else None
    folder = entry.name.rpartition("/")[0]
    place: Any = {name: getattr(series, name, None) for name in ("study_uid", "instance_number", "position", "sop_uid")}
    return ReadSlice(
        ordinal=entry.ordinal,
        name=entry.name,
        state=Outcome.OPEN,
        sha256=sha256,
        pixels_sha256=prepared.sha256_pixels,
        array_row=array_row,
        series_uid=series.series_uid if series else recording.FOLDER + folder,
        series_label=_series_label(series) if series else folder or "(no folder)",
        **{name: getattr(prepared, name) for name in ("frame", "format", "mode", "width", "height")},
        **place,
    )


def _series_label(series: SeriesInfo) -> str:
    number = "" if series.series_number is None else f"{series.series_number} "
    return f"{number}{series.description}".strip() or f"series …{series.series_uid[-12:]}"


def _batches(read: Iterator[Read]) -> Iterator[Batch]:
    """Yield the entries as chunks: a small first one, so that predicting starts soon, then each twice as large."""
    settings = current()
    full = settings.first_chunk_slices
    batch = Batch()
    for entry, sha256, result in read:
        batch.add(entry, sha256, result)
        if len(batch.arrays) >= full or len(batch.rows) >= ROWS_A_TRANSACTION:
            yield batch
            batch = Batch()
            full = min(full * 2, settings.chunk_slices)
    if batch.rows:
        yield batch
