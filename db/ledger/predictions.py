"""Writes predictions of slices, and copies the predictions of pixels that were predicted before."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import FAKE_ENGINE
from db.bulk import UNSEEN, insert_rows, one_of
from db.clock import from_now
from db.models import Job, Outcome, Prediction, Slice, deleted_jobs

Pixels = Mapping[int, str | None]
"""The hashes of prepared pixels, by slice."""


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
    """Return a heat map, float32[7, 7], in the form in which it is stored. Clip values to the range of float16."""
    return np.clip(cam, 0, 65504).astype("<f2").tobytes()


def open_slices(s: Session, *chunk_ids: int) -> dict[int, str | None]:
    """Return the slices of chunks that have no outcome yet: their ids in order, with the hashes of their pixels."""
    of_chunks = one_of(s, Slice.chunk_id, chunk_ids)
    query = select(Slice.id, Slice.pixels_sha256).where(of_chunks, Slice.state == Outcome.OPEN)
    return dict(s.execute(query.order_by(Slice.id)).all())


def insert_predictions(
    s: Session, job: Job, engine: str, fenced: Iterable[tuple[int, PredictedSlice]], pixels: Pixels
) -> None:
    """Write the predictions of open slices of a job, and close these slices as predicted.

    `fenced`: pairs of a claim's fence and a prediction under that claim. `pixels`: the hashes of the prepared pixels,
    by slice.
    """
    rows = [vars(one) | {"pixels_sha256": pixels[one.slice_id], "fence": fence} for fence, one in fenced]
    if not rows:
        return
    insert_rows(
        s,
        Prediction,
        rows,
        job_id=job.id,
        model_version_id=job.model_version_id,
        recipe=job.recipe,
        engine=engine,
        created_at=from_now(),
    )
    ids = [row["slice_id"] for row in rows]
    predicted_now = update(Slice).where(one_of(s, Slice.id, ids))
    s.execute(predicted_now.values(state=Outcome.PREDICTED, reason=None, detail=None), execution_options=UNSEEN)
    if job.first_result_at is None:
        s.execute(update(Job).where(Job.id == job.id).values(first_result_at=from_now()))


def copy_known(s: Session, job: Job, chunk_ids: Collection[int]) -> None:
    """Copy existing predictions to the open slices of chunks, if pixels, model version and recipe are the same.

    Made-up predictions of the engine `fake` are never copied.
    """
    known = known_predictions(s, job, chunk_ids)
    if not known:
        return
    pixels = open_slices(s, *chunk_ids)
    copies: dict[str, list[tuple[int, PredictedSlice]]] = {}  # by engine
    for slice_id, hash_ in pixels.items():
        if (p := known.get(hash_)) is not None:
            copy = PredictedSlice(slice_id, p.logit, p.probability, p.positive, p.cam, p.distance, p.ood)
            copies.setdefault(p.engine, []).append((p.fence, copy))
    for engine, fenced in copies.items():
        insert_predictions(s, job, engine, fenced, pixels)


def known_predictions(s: Session, job: Job, chunk_ids: Collection[int]) -> dict[str | None, Prediction]:
    """Return an earlier prediction for each open slice of these chunks, if there is one, by the hash of its pixels.

    The query uses the hash that the prediction itself stores. A lookup through the slices was slow until PostgreSQL had
    analyzed the tables. For each slice it read all predictions of the model version, so that the first minute had only
    230 slices/s.
    """
    one_prediction = (
        select(Prediction.id)
        .where(
            Prediction.pixels_sha256 == Slice.pixels_sha256,
            Prediction.model_version_id == job.model_version_id,
            Prediction.recipe == job.recipe,
            Prediction.engine != FAKE_ENGINE,
            Prediction.job_id.not_in(deleted_jobs()),
        )
        .limit(1)  # one is enough, as a picture may be submitted a hundred thousand times
        .scalar_subquery()
    )
    query = (
        select(Slice.pixels_sha256, one_prediction)
        .where(one_of(s, Slice.chunk_id, chunk_ids), Slice.state == Outcome.OPEN)
        .group_by(Slice.pixels_sha256)
    )
    pixels_of = {prediction: pixels for pixels, prediction in s.execute(query) if prediction is not None}
    if not pixels_of:
        return {}
    predictions = s.scalars(select(Prediction).where(Prediction.id.in_(pixels_of)))
    return {pixels_of[prediction.id]: prediction for prediction in predictions}
