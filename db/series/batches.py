"""Divides the series of a job into batches, so that memory and transactions do not grow with the job."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Series, Slice

SLICES_A_BATCH = 20_000
SERIES_A_BATCH = 1_000  # SQLite accepts at most 32,766 values in a statement


def series_batches(s: Session, job_id: str) -> list[list[int]]:
    """Return the ids of all series of a job, in batches of about `SLICES_A_BATCH` slices. A series is not divided."""
    sizes = select(Series.id, func.count(Slice.id)).outerjoin(Slice, Slice.series_id == Series.id)
    batches: list[list[int]] = []
    room = 0
    for series_id, size in s.execute(sizes.where(Series.job_id == job_id).group_by(Series.id).order_by(Series.id)):
        if size > room or len(batches[-1]) == SERIES_A_BATCH:
            batches.append([])
            room = max(SLICES_A_BATCH, size)
        batches[-1].append(series_id)
        room -= size
    return batches
