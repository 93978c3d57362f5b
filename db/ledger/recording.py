"""Records what became of slices: what an ingest worker read, and what an inference worker predicted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from db.clock import from_now
from db.crash_points import crash_point
from db.ledger import chunks, completion, leases
from db.ledger.leases import Claim, StaleClaim
from db.ledger.predictions import PredictedSlice, insert_predictions, open_slice_ids
from db.models import Chunk, Job, Outcome, Series, Slice, Upload, Work

FOLDER = "folder:"  # starts the series uid of a folder, which has no DICOM UID


@dataclass(frozen=True)
class ReadSlice:
    """One slice as it was read: prepared (its row of the chunk's array), rejected, or cancelled before reading."""

    ordinal: int
    frame: int
    name: str
    state: Outcome
    reason: str | None = None
    detail: str | None = None
    sha256: str | None = None
    pixels_sha256: str | None = None
    format: str | None = None
    mode: str | None = None
    width: int | None = None
    height: int | None = None
    array_row: int | None = None
    series_uid: str | None = None
    series_label: str = ""
    study_uid: str | None = None
    instance_number: int | None = None
    position: float | None = None
    sop_uid: str | None = None


def read_ordinals(s: Session, upload_id: int) -> set[int]:
    """Return the ordinals of an upload's entries whose outcome is recorded: a resumed ingest passes over them."""
    return set(s.scalars(select(Slice.ordinal).where(Slice.upload_id == upload_id)))


def record_read(s: Session, claim: Claim, upload: Upload, rows: Sequence[ReadSlice], array_sha256: str | None) -> bool:
    """Record a chunk's worth of entries and make the chunk, in one transaction.

    Returns whether the job was cancelled meanwhile. Raises StaleClaim.
    """
    job = completion.lock_job(s, upload.job_id)
    if not leases.keep(s, Upload, claim):
        raise StaleClaim(f"upload {claim.id}, fence {claim.fence}")
    s.execute(update(Upload).where(Upload.id == upload.id).values(attempts=1, put_offs=0))  # progress
    series = _series_ids(s, job.id, rows)
    ids = _insert_slices(s, job, upload, rows, series)
    if array_sha256 is not None:
        prepared = [id_ for id_, row in zip(ids, rows, strict=True) if row.state == Outcome.OPEN]
        chunks.add_chunk(s, job, array_sha256, prepared)
    return job.cancel_requested_at is not None


def _series_ids(s: Session, job_id: str, rows: Iterable[ReadSlice]) -> dict[str, int]:
    wanted = {row.series_uid: row for row in rows if row.series_uid is not None}
    query = select(Series.uid, Series.id).where(Series.job_id == job_id, Series.uid.in_(wanted))
    ids = dict(s.execute(query).all())
    for uid, row in wanted.items():
        if uid not in ids:
            series = Series(job_id=job_id, uid=uid, study_uid=row.study_uid, label=row.series_label)
            s.add(series)
            s.flush()
            ids[uid] = series.id
    return ids


def _insert_slices(
    s: Session, job: Job, upload: Upload, rows: Sequence[ReadSlice], series: dict[str, int]
) -> list[int]:
    if not rows:
        return []
    values = [
        {
            "job_id": job.id,
            "upload_id": upload.id,
            "series_id": None if row.series_uid is None else series[row.series_uid],
            **{k: v for k, v in vars(row).items() if not k.startswith(("series_", "study_"))},
        }
        for row in rows
    ]
    statement = insert(Slice).returning(Slice.id, sort_by_parameter_order=True)
    return list(s.scalars(statement, values))


def close_upload(s: Session, claim: Claim, upload: Upload, error: str | None = None) -> None:
    """Close an upload that is read to its end, or with `error` one that cannot be read. Raises StaleClaim."""
    job = completion.lock_job(s, upload.job_id)
    state = Work.FAILED if error is not None else Work.CANCELLED if job.cancel_requested_at is not None else Work.DONE
    leases.close(s, Upload, claim, state, error=error, closed_at=from_now())
    completion.finish_if_done(s, job)


def record_predictions(s: Session, claim: Claim, chunk: Chunk, engine: str, scored: Sequence[PredictedSlice]) -> None:
    """Record a chunk's predictions and close it, in one transaction, if the claim still holds.

    If the job was cancelled meanwhile, its slices are cancelled instead. Raises StaleClaim, and then nothing is kept.
    """
    job = completion.lock_job(s, chunk.job_id)
    cancelled = job.cancel_requested_at is not None
    leases.close(s, Chunk, claim, Work.CANCELLED if cancelled else Work.DONE, closed_at=from_now())
    if cancelled:
        chunks.close_slices(s, chunk.id, Outcome.CANCELLED)
    else:
        open_ids = set(open_slice_ids(s, chunk.id))
        still_open = [predicted for predicted in scored if predicted.slice_id in open_ids]
        insert_predictions(s, job, engine, claim.fence, still_open)
    completion.finish_if_done(s, job)
    crash_point("before-record-commit")
