"""Collects rows of entries, and the arrays of their prepared slices, which ingest records in one transaction."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.background import wait_for_storage
from db.database import current
from db.ledger.recording import ReadSlice
from db.models import Outcome
from db.models.slices import folder_of
from db.series.rows import FOLDER
from db.storage import storage
from db.timing.stages import Stage, timed
from worker.decoding import Read, npy_bytes
from worker.heartbeat import Heartbeat
from worker.imaging.archives.archive import Entry
from worker.imaging.formats.decode import DecodeLimits
from worker.imaging.lungs import lung_fraction
from worker.imaging.recipe import PreparedSlice, SeriesInfo
from worker.imaging.rejections import SliceRejected

# the most rows of a batch, for entries that fill no chunk because they are rejected or cancelled
ROWS_A_TRANSACTION = 1_000
FIRST_BATCH_SECONDS = 1.0  # time limit of the first batch; it doubles with each batch, up to BATCH_SECONDS
BATCH_SECONDS = 5.0  # limits batches of slow files, because other jobs have to wait until a batch ends


@dataclass
class Batch:
    """The rows that one transaction records, and the arrays of the prepared slices.

    `is_last`: the upload has no more entries. `error`: why the next entry cannot be read, or None.
    """

    rows: list[ReadSlice] = field(default_factory=list)
    arrays: list[NDArray[np.uint8]] = field(default_factory=list)
    began: float = 0.0  # when the first entry was added; its decoding may have started earlier
    is_last: bool = False
    error: Exception | None = None

    def add(self, entry: Entry, sha256: str | None, result: list[PreparedSlice] | SliceRejected) -> None:
        """Add an entry: a row for each frame that was rejected, or a row and an array for each prepared frame."""
        self.began = self.began or time.monotonic()
        if isinstance(result, SliceRejected):
            self.rows += _rejected_rows(entry, result, sha256)
            return
        for prepared in result:
            with timed(Stage.HASH, 0):
                prepared.sha256_pixels  # noqa: B018  computed at its first use
            self.rows.append(_row(entry, sha256, prepared, len(self.arrays), is_stack=len(result) > 1))
            self.arrays.append(prepared.pixels)

    def is_full(self, slices: int, seconds: float) -> bool:
        """Return whether to record the batch now: it has enough slices or rows, or began at least `seconds` ago."""
        is_old = time.monotonic() - self.began >= seconds
        return len(self.arrays) >= slices or len(self.rows) >= ROWS_A_TRANSACTION or is_old


def batches(read: Iterator[Read]) -> Iterator[Batch]:
    """Yield the entries in batches. The first one is small, so that predicting starts soon. Then the size doubles.

    If an entry cannot be read, the last batch holds the earlier entries and the error. If no entry was read since the
    last batch, the error is raised instead.
    """
    settings = current()
    full, seconds = settings.first_chunk_slices, FIRST_BATCH_SECONDS
    batch = Batch()
    try:
        for entry, sha256, result in read:
            batch.add(entry, sha256, result)
            if batch.is_full(full, min(seconds, BATCH_SECONDS)):
                yield batch
                batch = Batch()
                full, seconds = min(full * 2, settings.chunk_slices), min(seconds * 2, BATCH_SECONDS)
    except Exception as error:
        if not batch.rows:
            raise
        batch.error = error
    if batch.rows:
        batch.is_last = batch.error is None
        yield batch


def store_arrays(batch: Batch, heartbeat: Heartbeat) -> str | None:
    """Store the arrays of a batch, and make all files durable. Return the SHA-256, or None if there are no arrays."""
    with timed(Stage.CHUNK_FILE, len(batch.arrays)):
        return wait_for_storage(partial(_store, batch), heartbeat.progress)


def _store(batch: Batch) -> str | None:
    array = storage().put(npy_bytes(batch.arrays), durable=False) if batch.arrays else None
    storage().sync()
    return array


def cancelled_row(entry: Entry) -> ReadSlice:
    """Return the row of an entry that was not read, because its job was cancelled."""
    return ReadSlice(entry.ordinal, 0, entry.name, Outcome.CANCELLED)


def rejected_row(entry: Entry, rejection: SliceRejected, sha256: str | None = None) -> ReadSlice:
    """Return the row of a rejected entry. `sha256`: of the entry's bytes, or None if they were not read."""
    return ReadSlice(entry.ordinal, 0, entry.name, Outcome.REJECTED, rejection.code, rejection.detail, sha256)


def _rejected_rows(entry: Entry, rejection: SliceRejected, sha256: str | None) -> list[ReadSlice]:
    """Return the rows of a rejected entry: one for each frame that it states, or one if it states no series.

    There are at most as many rows as a file may have frames.
    """
    row = rejected_row(entry, rejection, sha256)
    series = rejection.series
    if series is None or not series.series_uid:
        return [row]
    place = _place(series, folder_of(entry.name))
    frames = min(max(series.frames or 1, 1), DecodeLimits.max_pages)
    return [replace(row, frame=frame, **place) for frame in range(frames)]


def _row(entry: Entry, sha256: str | None, prepared: PreparedSlice, array_row: int, *, is_stack: bool) -> ReadSlice:
    """Return the row of a frame.

    A volume is a series of its own. So is a file of several frames that states no series.
    """
    info = prepared.series
    series = info if info and info.series_uid else None
    folder = entry.name if prepared.format == "NIfTI" or (is_stack and not series) else folder_of(entry.name)
    return ReadSlice(
        ordinal=entry.ordinal,
        name=entry.name,
        state=Outcome.OPEN,
        sha256=sha256,
        pixels_sha256=prepared.sha256_pixels,
        array_row=array_row,
        lung_fraction=lung_fraction(prepared.pixels),
        **{name: getattr(prepared, name) for name in ("frame", "format", "mode", "width", "height", "notes")},
        **_place(info, folder),
    )


def _place(info: SeriesInfo | None, folder: str) -> Any:
    """Return the fields of a row that state its patient, its series and its place in the series."""
    series = info if info and info.series_uid else None
    return {
        **{name: getattr(info, name, "") for name in ("patient", "issuer", "birth_date", "sex")},
        "series_uid": series.series_uid if series else FOLDER + folder,
        "series_label": _series_label(series, folder),
        **{name: getattr(info, name, None) or None for name in ("study_uid", "orientation", "sop_uid")},
        **{name: getattr(info, name, None) for name in ("instance_number", "position", "location")},
    }


def _series_label(series: SeriesInfo | None, folder: str) -> str:
    """Return the name of a series for people. It includes the folder, because series numbers repeat in each patient."""
    if series is None:
        return folder or "(no folder)"
    number = "" if series.series_number is None else f"series {series.series_number}"
    own = " ".join(filter(None, (number, series.description.strip()))) or f"series …{series.series_uid[-12:]}"
    return f"{folder}: {own}" if folder else own
