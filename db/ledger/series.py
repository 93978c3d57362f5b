"""The series of a job with the counts of their slices, a page at a time."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from db.models import Job, Prediction, Series, Slice

PAGE_ROWS = 25


class SeriesQuery(BaseModel):
    """Which series of a job: those whose name contains `find`, and which page of them, from 1."""

    model_config = ConfigDict(frozen=True)

    find: str = Field(default="", max_length=200)
    page: int = Field(default=1, ge=1, le=1_000_000)


@dataclass(frozen=True)
class SeriesSummary:
    """The slices of one series, counted. No verdict: that is for a named rule over the whole series."""

    series_id: int
    label: str
    slices: int
    predicted: int
    positive: int
    mean_probability: float | None


@dataclass(frozen=True)
class SeriesPage:
    """Some series of a job: those from number `first` on, of `total` that match."""

    items: list[SeriesSummary]
    first: int
    total: int
    page: int
    pages: int


def series_page(s: Session, job: Job, query: SeriesQuery) -> SeriesPage:
    """Return a page of the job's series in the order in which they came. A page past the last is the last."""
    matching = select(Series.id).where(Series.job_id == job.id)
    if query.find:
        matching = matching.where(Series.label.icontains(query.find.replace("\0", "\ufffd"), autoescape=True))
    total = s.scalar(select(func.count()).select_from(matching.subquery())) or 0
    pages = max(1, -(-total // PAGE_ROWS))
    page = min(query.page, pages)
    first = (page - 1) * PAGE_ROWS
    ids = s.scalars(matching.order_by(Series.id).offset(first).limit(PAGE_ROWS)).all()
    return SeriesPage(_summaries(s, job, list(ids)), first + 1, total, page, pages)


def series_label(s: Session, job: Job, series_id: int) -> str | None:
    """Return the name of a series of this job, or None if it has no such series."""
    return s.scalar(select(Series.label).where(Series.id == series_id, Series.job_id == job.id))


def _summaries(s: Session, job: Job, ids: list[int]) -> list[SeriesSummary]:
    positive = func.sum(case((Prediction.positive.is_(True), 1), else_=0))
    counts = (func.count(Slice.id), func.count(Prediction.id), positive, func.avg(Prediction.probability))
    query = (
        select(Series.id, Series.label, *counts)
        .join(Slice, Slice.series_id == Series.id)
        .outerjoin(
            Prediction, (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
        )
        .where(Series.id.in_(ids))
        .group_by(Series.id, Series.label)
        .order_by(Series.id)
    )
    return [SeriesSummary(i, label, n, p, int(pos or 0), mean) for i, label, n, p, pos, mean in s.execute(query)]
