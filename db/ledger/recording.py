"""Recording what became of slices: what an ingest worker read, what an inference worker predicted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session, aliased

from db import broker
from db.broker import Queue
from db.clock import from_now
from db.crash_points import crash_point
from db.ledger import chunks, completion, leases
from db.ledger.leases import Claim, StaleClaim
from db.models import Chunk, Job, Outcome, Prediction, Series, Slice, Upload, Work

FOLDER = "folder:"  # a series uid that is no DICOM UID: the folder of an archive


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


@dataclass(frozen=True)
class PredictedSlice:
    """The scores of one slice. `cam` is float16[7, 7], little-endian, as bytes. `distance`, `ood`: see Prediction."""

    slice_id: int
    logit: float
    probability: float
    positive: bool
    cam: bytes
    distance: float | None = None
    ood: bool | None = None


def cam_bytes(cam: NDArray[np.float32]) -> bytes:
    """float32[7, 7] as it is stored; values past float16's range are cut off."""
    return np.clip(cam, 0, 65504).astype("<f2").tobytes()


def read_ordinals(s: Session, upload_id: int) -> set[int]:
    """The entries of an upload whose outcome is recorded: what a resumed ingest passes over."""
    return set(s.scalars(select(Slice.ordinal).where(Slice.upload_id == upload_id)))


def record_read(s: Session, claim: Claim, upload: Upload, rows: Sequence[ReadSlice], array_sha256: str | None) -> bool:
    """Record a chunk's worth of entries and publish the chunk, all in one transaction.

    Pixels that this model version has seen under this recipe are not predicted again: their prediction is copied.
    Returns whether the job was cancelled meanwhile. Raises StaleClaim.
    """
    job = completion.lock_job(s, upload.job_id)
    if not leases.keep(s, Upload, claim):
        raise StaleClaim(f"upload {claim.id}, fence {claim.fence}")
    s.execute(update(Upload).where(Upload.id == upload.id).values(attempts=1))  # progress was made
    series = _series_ids(s, job.id, rows)
    ids = _insert_slices(s, job, upload, rows, series)
    if array_sha256 is not None:
        prepared = [id_ for id_, row in zip(ids, rows, strict=True) if row.state == Outcome.OPEN]
        _publish(s, job, array_sha256, prepared)
    return job.cancel_requested_at is not None


def _series_ids(s: Session, job_id: str, rows: Iterable[ReadSlice]) -> dict[str, int]:
    wanted = {row.series_uid: row for row in rows if row.series_uid is not None}
    query = select(Series.uid, Series.id).where(Series.job_id == job_id, Series.uid.in_(wanted))
    found = dict(s.execute(query).all())
    for uid, row in wanted.items():
        if uid not in found:
            series = Series(job_id=job_id, uid=uid, study_uid=row.study_uid, label=row.series_label)
            s.add(series)
            s.flush()
            found[uid] = series.id
    return found


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


def _publish(s: Session, job: Job, array_sha256: str, slice_ids: list[int]) -> None:
    """Make the chunk of these slices: ready, cancelled if the job is, done if every prediction could be copied."""
    chunk = Chunk(job_id=job.id, size=len(slice_ids), array_sha256=array_sha256)
    s.add(chunk)
    s.flush()
    s.execute(update(Slice).where(Slice.id.in_(slice_ids)).values(chunk_id=chunk.id))
    if job.cancel_requested_at is not None:
        chunks.close_slices(s, chunk.id, Outcome.CANCELLED)
        _settle(s, chunk, Work.CANCELLED)
    elif copy_known(s, job, chunk.id) == len(slice_ids):
        _settle(s, chunk, Work.DONE)
    else:
        broker.wake_after_commit(s, Queue.INFERENCE)


def _settle(s: Session, chunk: Chunk, state: Work) -> None:
    s.execute(update(Chunk).where(Chunk.id == chunk.id).values(state=state, closed_at=from_now()))


def copy_known(s: Session, job: Job, chunk_id: int) -> int:
    """Copy predictions that exist for the same pixels, model version and recipe to open slices; how many."""
    twin = aliased(Slice)
    any_of_them = (
        select(Prediction.id)
        .join(twin, twin.id == Prediction.slice_id)
        .where(
            twin.pixels_sha256 == Slice.pixels_sha256,
            Prediction.model_version_id == job.model_version_id,
            Prediction.recipe == job.recipe,
        )
        .limit(1)  # of a picture that came a hundred thousand times, one is enough
        .scalar_subquery()
    )
    known = (
        select(Slice.pixels_sha256, any_of_them)
        .where(Slice.chunk_id == chunk_id, Slice.state == Outcome.OPEN)
        .group_by(Slice.pixels_sha256)
    )
    pixels_of = {prediction: pixels for pixels, prediction in s.execute(known) if prediction is not None}
    if not pixels_of:
        return 0
    query = select(Prediction).where(Prediction.id.in_(pixels_of))
    source = {pixels_of[prediction.id]: prediction for prediction in s.scalars(query)}
    copies = [
        _values(
            job,
            source[pixels].engine,
            source[pixels].fence,
            PredictedSlice(slice_id, p.logit, p.probability, p.positive, p.cam, p.distance, p.ood),
        )
        for slice_id, pixels in s.execute(
            select(Slice.id, Slice.pixels_sha256).where(Slice.chunk_id == chunk_id, Slice.state == Outcome.OPEN)
        )
        if (p := source.get(pixels)) is not None
    ]
    _insert_predictions(s, job, copies)
    return len(copies)


def _values(job: Job, engine: str, fence: int, scored: PredictedSlice) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "model_version_id": job.model_version_id,
        "recipe": job.recipe,
        "engine": engine,
        "fence": fence,
        **vars(scored),
    }


def _insert_predictions(s: Session, job: Job, values: list[dict[str, Any]]) -> None:
    if not values:
        return
    s.execute(insert(Prediction), values)
    ids = [v["slice_id"] for v in values]
    s.execute(update(Slice).where(Slice.id.in_(ids)).values(state=Outcome.PREDICTED, reason=None, detail=None))
    if job.first_result_at is None:
        s.execute(update(Job).where(Job.id == job.id).values(first_result_at=from_now()))


def close_upload(s: Session, claim: Claim, upload: Upload, error: str | None = None) -> None:
    """The upload is read to its end, or cannot be. Raises StaleClaim."""
    job = completion.lock_job(s, upload.job_id)
    state = Work.FAILED if error is not None else Work.CANCELLED if job.cancel_requested_at is not None else Work.DONE
    leases.close(s, Upload, claim, state, error=error, closed_at=from_now())
    completion.finish_if_done(s, job)


def record_predictions(s: Session, claim: Claim, chunk: Chunk, engine: str, scored: Sequence[PredictedSlice]) -> None:
    """Record a chunk's predictions and close it, in one transaction, if the claim still holds.

    A job that was cancelled meanwhile gains nothing: its slices are cancelled. Raises StaleClaim, and then
    nothing of it is kept.
    """
    job = completion.lock_job(s, chunk.job_id)
    cancelled = job.cancel_requested_at is not None
    leases.close(s, Chunk, claim, Work.CANCELLED if cancelled else Work.DONE, closed_at=from_now())
    if cancelled:
        chunks.close_slices(s, chunk.id, Outcome.CANCELLED)
    else:
        open_ids = set(s.scalars(select(Slice.id).where(Slice.chunk_id == chunk.id, Slice.state == Outcome.OPEN)))
        _insert_predictions(s, job, [_values(job, engine, claim.fence, x) for x in scored if x.slice_id in open_ids])
    completion.finish_if_done(s, job)
    crash_point("before-record-commit")
