"""Reads the series of a job, with the counts of their slices, page by page."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, case, func, or_, select
from sqlalchemy.orm import Session

from db import paging
from db.database import read_scope
from db.ledger.completion import check_kept
from db.ledger.views import View
from db.models import Job, Level, Patient, Prediction, Series, Slice, Study
from db.paging import Page
from db.series.rows import stated_uid
from db.series.uploads import upload_names

PAGE_ROWS = 25
MANY_ROWS = 500


class SeriesQuery(BaseModel):
    """Which series of a job to show: the series whose name contains `find`, and which page of the list, from 1."""

    model_config = ConfigDict(frozen=True)

    find: str = Field(default="", max_length=200)
    page: int = Field(default=1, ge=1, le=1_000_000)


class SeriesSummary(View):
    """A series: its patient and study, notes about it, and the counts of its slices."""

    series_id: int
    label: str
    patient: int = Field(description="The number of its patient within the job, from 1.")
    study_uid: str | None = Field(description="StudyInstanceUID; null if the files state none.")
    series_uid: str | None = Field(description="SeriesInstanceUID; null if the files state none.")
    uploads: list[str] = Field(description="The file names of the archives and loose files that hold its slices.")
    notes: list[str] = Field(
        description="Codes of what is odd about the series, such as `gap` or `tilted`; set once all files of the job "
        "are read. Its slices are predicted all the same."
    )
    slices: int
    predicted: int
    positive: int
    mean_probability: float | None


@dataclass(frozen=True)
class SeriesPage:
    """Some of the `total` matching series of a job, from number `first` on."""

    items: list[SeriesSummary]
    first: int
    total: int
    page: int
    pages: int


def series_page(s: Session, job: Job, query: SeriesQuery) -> SeriesPage:
    """Return a page of the job's series, by patient and then in the order in which they came.

    For a page number that is too large, return the last page.
    """
    matching = _series_of(job)
    if query.find:
        matching = matching.where(Series.label.icontains(query.find.replace("\0", "\ufffd"), autoescape=True))
    total = s.scalar(select(func.count()).select_from(matching.subquery())) or 0
    pages = max(1, -(-total // PAGE_ROWS))
    page = min(query.page, pages)
    first = (page - 1) * PAGE_ROWS
    ids = s.scalars(matching.order_by(Patient.ordinal, Series.id).offset(first).limit(PAGE_ROWS)).all()
    return SeriesPage(_summaries(s, job, list(ids)), first + 1, total, page, pages)


def series_after(s: Session, job: Job, cursor: str | None, limit: int) -> Page[SeriesSummary]:
    """Return the series of a job that follow a cursor, in the order of `series_page`. Raises BadCursor."""
    query = _series_of(job).add_columns(Patient.ordinal)
    if cursor is not None:
        patient, series_id = paging.decode(cursor, int, int)
        query = query.where(or_(Patient.ordinal > patient, (Patient.ordinal == patient) & (Series.id > series_id)))
    rows = s.execute(query.order_by(Patient.ordinal, Series.id).limit(limit + 1)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    next_cursor = None if last is None else paging.encode(last[1], last[0])
    return Page(_summaries(s, job, [row[0] for row in rows[:limit]]), next_cursor)


def iter_series(job: Job) -> Iterator[SeriesSummary]:
    """Yield all series of a job. Use many short reads. Raises JobGone, JobChanged: as for `iter_results`."""
    cursor, is_first = None, True
    while cursor or is_first:
        with read_scope() as s:
            page = series_after(s, job, cursor, MANY_ROWS)
            check_kept(s, job)
        yield from page.items
        cursor, is_first = page.next_cursor, False


def _series_of(job: Job) -> Select[Any]:
    owned = select(Series.id).join(Study, Study.id == Series.study_id).join(Patient, Patient.id == Study.patient_id)
    return owned.where(Series.job_id == job.id)


def series_label(s: Session, job: Job, series_id: int) -> str | None:
    """Return the name of a series of this job, or None if it has no such series."""
    return s.scalar(select(Series.label).where(Series.id == series_id, Series.job_id == job.id))


def _summaries(s: Session, job: Job, ids: list[int]) -> list[SeriesSummary]:
    positive = func.sum(case((Prediction.positive.is_(True), 1), else_=0))
    counts = (func.count(Slice.id), func.count(Prediction.id), positive, func.avg(Prediction.probability))
    counted = s.execute(
        select(Slice.series_id, *counts)
        .outerjoin(
            Prediction, (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
        )
        .where(Slice.series_id.in_(ids))
        .group_by(Slice.series_id)
    )
    numbers = {id_: (slices, predicted, int(pos or 0), mean) for id_, slices, predicted, pos, mean in counted}
    owned = select(Series, Study.uid, Patient.ordinal).join(Study, Study.id == Series.study_id)
    rows = s.execute(owned.join(Patient, Patient.id == Study.patient_id).where(Series.id.in_(ids)))
    names = upload_names(s, job, Slice.series_id.in_(ids))
    return [
        _summary(
            series,
            study_uid,
            patient,
            names[Level.SERIES, series.id],
            *numbers.get(series.id, (0, 0, 0, None)),
        )
        for series, study_uid, patient in sorted(rows, key=lambda row: ids.index(row[0].id))
    ]


def _summary(
    series: Series,
    study_uid: str,
    patient: int,
    uploads: list[str],
    slices: int,
    predicted: int,
    positive: int,
    mean: float | None,
) -> SeriesSummary:
    return SeriesSummary(
        series_id=series.id,
        label=series.label,
        patient=patient,
        study_uid=stated_uid(study_uid),
        series_uid=stated_uid(series.uid),
        uploads=uploads,
        notes=series.notes,
        slices=slices,
        predicted=predicted,
        positive=positive,
        mean_probability=mean,
    )
