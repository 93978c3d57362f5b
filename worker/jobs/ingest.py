"""Archive → slices and prepared chunks: entries are read, decoded in the sandbox, recorded and published in order."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import OperationalError

from db.crash_points import crash_point
from db.database import current, read_scope, session_scope
from db.ledger import leases, queue, recording
from db.ledger.leases import Claim, StaleClaim
from db.ledger.recording import ReadSlice
from db.models import Job, Outcome, Upload
from db.storage import FileMissing, storage
from worker.decoding import Read, new_decoders, npy_bytes, read_decoded
from worker.heartbeat import Heartbeat
from worker.imaging.archives.archive import Entry, read_entries
from worker.imaging.recipe import PreparedSlice, SeriesInfo
from worker.imaging.rejections import ArchiveRefused, DecoderUnavailable, SliceRejected
from worker.imaging.sandbox.pool import DecoderPool
from worker.received_files import archive_limits

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # claims of an upload without any progress between them
ROWS_A_TRANSACTION = 1_000  # where many entries are rejected, or cancelled, and no chunk fills


@lru_cache(maxsize=2)
def decoders(nested: bool) -> DecoderPool:
    """This process's decoders, kept once they are started.

    A second set serves the small uploads that are unpacked while a large one is under way.
    """
    return new_decoders()


def unpack_next(worker: str, smaller_than: Upload | None = None, around: Heartbeat | None = None) -> bool:
    """Claim the upload whose turn it is and unpack it; False if there is none.

    `smaller_than`: only one that may interrupt that one. `around`: the heartbeat of the work that is interrupted.
    """
    with session_scope() as s:
        claim = queue.claim_upload(s, worker, smaller_than=smaller_than)
        if claim is None:
            return False
        upload = s.get_one(Upload, claim.id, populate_existing=True)
        cancelled = s.get_one(Job, upload.job_id).cancel_requested_at is not None
    crash_point("after-claim-upload")
    log.info("unpacking", extra={"job": upload.job_id, "upload": upload.id, "fence": claim.fence})
    with Heartbeat(Upload, [claim], around) as heartbeat:
        try:
            _unpack(worker, claim, upload, heartbeat, cancelled, nested=smaller_than is not None)
        except StaleClaim:
            log.info("upload is someone else's now", extra={"upload": upload.id})
        except (ArchiveRefused, FileMissing) as error:
            _fail(claim, upload, str(error) if isinstance(error, ArchiveRefused) else "file_missing")
        except (OSError, OperationalError, DecoderUnavailable) as error:
            log.warning("unpacking put off", extra={"upload": upload.id, "error": type(error).__name__})
            with session_scope() as s:
                leases.put_off(s, Upload, claim)
    return True


def _fail(claim: Claim, upload: Upload, error: str) -> None:
    with session_scope() as s:
        recording.close_upload(s, claim, upload, error)


def _unpack(worker: str, claim: Claim, upload: Upload, heartbeat: Heartbeat, cancelled: bool, nested: bool) -> None:
    if upload.attempts > MAX_ATTEMPTS:
        _fail(claim, upload, f"unpacking was broken off {MAX_ATTEMPTS} times without getting any further")
        return
    with read_scope() as s:
        done = recording.read_ordinals(s, upload.id)
    if not cancelled:
        read = read_decoded(decoders(nested), upload.sha256, upload.filename, done.__contains__, heartbeat.progress)
        for batch in _batches(read):
            array = storage().put(npy_bytes(batch.arrays)) if batch.arrays else None
            crash_point("after-array-before-record")
            with session_scope() as s:
                cancelled = recording.record_read(s, claim, upload, batch.rows, array)
            done.update(row.ordinal for row in batch.rows)
            if cancelled:
                break
            while not nested and unpack_next(worker, smaller_than=upload, around=heartbeat):
                heartbeat.progress()
    if cancelled:
        _cancel_rest(claim, upload, done, heartbeat)
    with session_scope() as s:
        recording.close_upload(s, claim, upload)


def _cancel_rest(claim: Claim, upload: Upload, done: set[int], heartbeat: Heartbeat) -> None:
    """List what was not read before the job was cancelled: each entry was received, and gets its outcome."""
    rows: list[ReadSlice] = []

    def record() -> None:
        with session_scope() as s:
            recording.record_read(s, claim, upload, rows, None)
        rows.clear()
        heartbeat.progress()

    path = storage().local_path(upload.sha256, heartbeat.progress)
    for entry, _ in read_entries(path, upload.filename, archive_limits(), done.__contains__):
        rows.append(ReadSlice(entry.ordinal, 0, entry.name, Outcome.CANCELLED))
        if len(rows) >= ROWS_A_TRANSACTION:
            record()
    record()


@dataclass
class Batch:
    """What one transaction records: rows, and the arrays of those that were prepared."""

    rows: list[ReadSlice] = field(default_factory=list)
    arrays: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, entry: Entry, sha256: str | None, result: list[PreparedSlice] | SliceRejected) -> None:
        """Take an entry: a row for a rejection, a row and an array for each prepared frame."""
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
    return ReadSlice(
        ordinal=entry.ordinal,
        frame=prepared.frame,
        name=entry.name,
        state=Outcome.OPEN,
        sha256=sha256,
        pixels_sha256=prepared.sha256_pixels,
        format=prepared.format,
        mode=prepared.mode,
        width=prepared.width,
        height=prepared.height,
        array_row=array_row,
        series_uid=series.series_uid if series else recording.FOLDER + folder,
        series_label=_series_label(series) if series else folder or "(no folder)",
        study_uid=series.study_uid if series else None,
        instance_number=series.instance_number if series else None,
        position=series.position if series else None,
        sop_uid=series.sop_uid if series else None,
    )


def _series_label(series: SeriesInfo) -> str:
    number = "" if series.series_number is None else f"{series.series_number} "
    return f"{number}{series.description}".strip() or f"series …{series.series_uid[-12:]}"


def _batches(read: Iterator[Read]) -> Iterator[Batch]:
    """Entries gathered into chunks: a small first one, so that predicting starts soon, each next one twice as large."""
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
