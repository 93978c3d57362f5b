"""Archive → slices and prepared chunks: entries are read, decoded in the sandbox, recorded and published in order."""

import io
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import OperationalError

from db import jobs, leases, outcomes
from db.base import current, read_scope, session_scope
from db.faults import crash_point
from db.leases import Claim, StaleClaim
from db.models import Job, Outcome, Upload
from db.outcomes import ReadSlice
from db.storage import FileMissing, storage
from worker.heartbeat import Heartbeat
from worker.imaging.archive import Entry, Limits, read_entries
from worker.imaging.decode import DecodeLimits
from worker.imaging.errors import ArchiveRefused, DecoderUnavailable, SliceRejected
from worker.imaging.prepare import Prepared, SeriesInfo
from worker.imaging.sandbox import DecoderPool

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5  # claims of an upload without any progress between them
ROWS_A_TRANSACTION = 1_000  # where many entries are rejected, or cancelled, and no chunk fills


@lru_cache(maxsize=2)
def decoders(nested: bool) -> DecoderPool:
    """This process's decoders: sandboxed children, started at first use and kept.

    A second set serves the small uploads that are unpacked while a large one is under way.
    """
    settings = current()
    size = settings.decoders or min(os.cpu_count() or 1, 8)
    limits = DecodeLimits(
        max_pixels=settings.max_pixels,
        cpu_seconds=settings.decode_seconds,
        wall_seconds=3 * settings.decode_seconds,  # a busy machine is no fault of the file
        memory_bytes=settings.decode_memory_bytes,
    )
    return DecoderPool(size, limits)


def archive_limits() -> Limits:
    """What a submission may hold, from the settings."""
    settings = current()
    return Limits(
        max_entries=settings.max_entries,
        max_unpacked_bytes=settings.max_unpacked_bytes,
        max_ratio=settings.max_ratio,
        max_entry_bytes=settings.max_entry_bytes,
    )


def unpack_next(worker: str, smaller_than: Upload | None = None) -> bool:
    """Claim the upload whose turn it is and unpack it; False if there is none."""
    with session_scope() as s:
        claim = jobs.claim_upload(s, worker, smaller_than=smaller_than)
        if claim is None:
            return False
        upload = s.get_one(Upload, claim.id, populate_existing=True)
        cancelled = s.get_one(Job, upload.job_id).cancel_requested_at is not None
    crash_point("after-claim-upload")
    log.info("unpacking", extra={"job": upload.job_id, "upload": upload.id, "epoch": claim.epoch})
    with Heartbeat(Upload, [claim]) as heartbeat:
        try:
            _unpack(worker, claim, upload, heartbeat, cancelled, nested=smaller_than is not None)
        except StaleClaim:
            log.info("upload is someone else's now", extra={"upload": upload.id})
        except (ArchiveRefused, FileMissing) as error:
            _fail(claim, upload, str(error) if isinstance(error, ArchiveRefused) else "file_missing")
        except (OSError, OperationalError, DecoderUnavailable) as error:
            log.warning("unpacking put off", extra={"upload": upload.id, "error": type(error).__name__})
            with session_scope() as s:
                leases.give_back(s, Upload, claim)
    return True


def _fail(claim: Claim, upload: Upload, error: str) -> None:
    with session_scope() as s:
        outcomes.close_upload(s, claim, upload, error)


def _unpack(worker: str, claim: Claim, upload: Upload, heartbeat: Heartbeat, cancelled: bool, nested: bool) -> None:
    if upload.attempts > MAX_ATTEMPTS:
        _fail(claim, upload, f"unpacking was broken off {MAX_ATTEMPTS} times without getting any further")
        return
    with read_scope() as s:
        done = outcomes.read_ordinals(s, upload.id)
    if not cancelled:
        for batch in _batches(_decoded(upload, done, heartbeat, nested)):
            array = storage().put(batch.npy()) if batch.arrays else None
            crash_point("after-array-before-record")
            with session_scope() as s:
                cancelled = outcomes.record_read(s, claim, upload, batch.rows, array)
            done.update(row.ordinal for row in batch.rows)
            if cancelled:
                break
            while not nested and unpack_next(worker, smaller_than=upload):
                heartbeat.progress()
    if cancelled:
        _cancel_rest(claim, upload, done, heartbeat)
    with session_scope() as s:
        outcomes.close_upload(s, claim, upload)


def _cancel_rest(claim: Claim, upload: Upload, done: set[int], heartbeat: Heartbeat) -> None:
    """List what was not read before the job was cancelled: each entry was received, and gets its outcome."""
    rows: list[ReadSlice] = []

    def record() -> None:
        with session_scope() as s:
            outcomes.record_read(s, claim, upload, rows, None)
        rows.clear()
        heartbeat.progress()

    path = storage().local_path(upload.sha256)
    for entry, _ in read_entries(path, upload.filename, archive_limits(), done.__contains__):
        rows.append(ReadSlice(entry.ordinal, 0, entry.name, Outcome.CANCELLED))
        if len(rows) >= ROWS_A_TRANSACTION:
            record()
    record()


Read = tuple[Entry, str | None, list[Prepared] | SliceRejected]  # an entry, its bytes' SHA-256, what became of it


def _decoded(upload: Upload, done: set[int], heartbeat: Heartbeat, nested: bool) -> Iterator[Read]:
    """Every entry that has no outcome yet, in the archive's order, decoded or rejected. Originals are stored."""

    def readable() -> Iterator[tuple[tuple[Entry, str | None], bytes | SliceRejected]]:
        path = storage().local_path(upload.sha256)
        for entry, content in read_entries(path, upload.filename, archive_limits(), done.__contains__):
            # Not fsynced: the upload is, and an original can be read from it again.
            kept = None if isinstance(content, SliceRejected) else storage().put(content, durable=False)
            yield (entry, kept), content

    for (entry, sha256), result in decoders(nested).map(readable()):
        heartbeat.progress()
        yield entry, sha256, result


@dataclass
class Batch:
    """What one transaction records: rows, and the arrays of those that were prepared."""

    rows: list[ReadSlice] = field(default_factory=list)
    arrays: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, entry: Entry, sha256: str | None, result: list[Prepared] | SliceRejected) -> None:
        """Take an entry: a row for a rejection, a row and an array for each prepared frame."""
        if isinstance(result, SliceRejected):
            rejected = Outcome.REJECTED
            self.rows.append(ReadSlice(entry.ordinal, 0, entry.name, rejected, result.code, result.detail, sha256))
            return
        for prepared in result:
            self.rows.append(_row(entry, sha256, prepared, len(self.arrays)))
            self.arrays.append(prepared.pixels)

    def npy(self) -> memoryview:
        """The arrays as the bytes of one .npy file, uint8[n, 224, 224]."""
        buffer = io.BytesIO()
        np.save(buffer, np.stack(self.arrays), allow_pickle=False)
        return buffer.getbuffer()


def _row(entry: Entry, sha256: str | None, prepared: Prepared, array_row: int) -> ReadSlice:
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
        series_uid=series.series_uid if series else outcomes.FOLDER + folder,
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
