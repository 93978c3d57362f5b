"""Predictions of slices: written, and copied where the same pixels were predicted before."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session, aliased

from db.clock import from_now
from db.models import Job, Outcome, Prediction, Slice


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
    """Return a heat map, float32[7, 7], as it is stored; values past float16's range are clipped."""
    return np.clip(cam, 0, 65504).astype("<f2").tobytes()


def open_slice_ids(s: Session, chunk_id: int) -> list[int]:
    """Return the ids of a chunk's slices that have no outcome yet, in order."""
    query = select(Slice.id).where(Slice.chunk_id == chunk_id, Slice.state == Outcome.OPEN)
    return list(s.scalars(query.order_by(Slice.id)))


def insert_predictions(s: Session, job: Job, engine: str, fence: int, predicted: Iterable[PredictedSlice]) -> None:
    """Write the predictions of open slices of a job, and close the slices as predicted."""
    common = {
        "job_id": job.id,
        "model_version_id": job.model_version_id,
        "recipe": job.recipe,
        "engine": engine,
        "fence": fence,
    }
    values = [common | vars(one) for one in predicted]
    if not values:
        return
    s.execute(insert(Prediction), values)
    ids = [row["slice_id"] for row in values]
    s.execute(update(Slice).where(Slice.id.in_(ids)).values(state=Outcome.PREDICTED, reason=None, detail=None))
    if job.first_result_at is None:
        s.execute(update(Job).where(Job.id == job.id).values(first_result_at=from_now()))


def copy_known(s: Session, job: Job, chunk_id: int) -> None:
    """Copy the predictions that exist for the same pixels, model version and recipe to the open slices of a chunk."""
    known = _known_predictions(s, job, chunk_id)
    if not known:
        return
    slices = s.execute(
        select(Slice.id, Slice.pixels_sha256).where(Slice.chunk_id == chunk_id, Slice.state == Outcome.OPEN)
    )
    copies: dict[tuple[str, int], list[PredictedSlice]] = {}  # by engine and fence
    for slice_id, pixels in slices:
        if (p := known.get(pixels)) is not None:
            copy = PredictedSlice(slice_id, p.logit, p.probability, p.positive, p.cam, p.distance, p.ood)
            copies.setdefault((p.engine, p.fence), []).append(copy)
    for (engine, fence), predicted in copies.items():
        insert_predictions(s, job, engine, fence, predicted)


def _known_predictions(s: Session, job: Job, chunk_id: int) -> dict[str | None, Prediction]:
    """Return by hash of the pixels one earlier prediction of each picture of the chunk that has any."""
    twin = aliased(Slice)
    one_prediction = (
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
    query = (
        select(Slice.pixels_sha256, one_prediction)
        .where(Slice.chunk_id == chunk_id, Slice.state == Outcome.OPEN)
        .group_by(Slice.pixels_sha256)
    )
    pixels_of = {prediction: pixels for pixels, prediction in s.execute(query) if prediction is not None}
    if not pixels_of:
        return {}
    predictions = s.scalars(select(Prediction).where(Prediction.id.in_(pixels_of)))
    return {pixels_of[prediction.id]: prediction for prediction in predictions}
