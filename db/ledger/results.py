"""The results of a job: its slices by keyset pages, by series, and as images."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from db import CLASSES, COVID, paging
from db.database import read_scope
from db.models import Chunk, Job, ModelVersion, Prediction, Series, Slice
from db.paging import Page
from db.storage import storage

Sort = Literal["position", "name", "probability", "-probability"]
SORTS: tuple[str, ...] = get_args(Sort)
EXPORT_ROWS = 2_000


@dataclass(frozen=True)
class ResultRow:
    """One slice and its outcome. `label` and `probability` only where it was predicted.

    `distance`: how far it lies from the slices that the model was trained on; `ood`: that is too far. None where the
    model tells nothing of that.
    """

    slice_id: int
    name: str
    frame: int
    series: str | None
    state: str
    reason: str | None
    detail: str | None
    label: str | None
    probability: float | None
    distance: float | None
    ood: bool | None
    model_version: str
    recipe: str
    sha256: str | None
    format: str | None
    width: int | None
    height: int | None
    has_image: bool
    has_heat: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


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
class SliceImage:
    """A prepared slice, uint8[224, 224], and its heat map, float32[7, 7], where it was predicted."""

    pixels: NDArray[np.uint8]
    cam: NDArray[np.float32] | None


def _rows(job: Job) -> Select[*tuple[Any, ...]]:
    return (
        select(Slice, Prediction, Series.label, ModelVersion)
        .outerjoin(
            Prediction,
            (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id),
        )
        .outerjoin(Series, Series.id == Slice.series_id)
        .join(ModelVersion, ModelVersion.id == job.model_version_id)
        .where(Slice.job_id == job.id)
    )


def _sorting(sort: str) -> tuple[Any, type, bool]:
    """The sort key (never null), its Python type, and whether it falls. Slices without a score come last."""
    if sort == "position":
        return Slice.id, int, False
    if sort == "name":
        return Slice.name, str, False
    if sort == "probability":
        return func.coalesce(Prediction.probability, 2.0), float, False
    if sort == "-probability":
        return func.coalesce(Prediction.probability, -1.0), float, True
    raise ValueError(f"no such order: {sort}")


def results_page(
    s: Session,
    job: Job,
    *,
    state: str | None = None,
    label: str | None = None,
    reason: str | None = None,
    series: int | None = None,
    ood: bool | None = None,
    sort: str = "position",
    cursor: str | None = None,
    limit: int = 100,
) -> Page[ResultRow]:
    """A page of a job's slices. Raises BadCursor, ValueError (an unknown order)."""
    key, key_type, falling = _sorting(sort)
    query = _rows(job)
    for column, value in ((Slice.state, state), (Slice.reason, reason), (Slice.series_id, series)):
        if value is not None:
            query = query.where(column == value)
    if label is not None:
        query = query.where(Prediction.positive.is_(label == COVID))
    if ood is not None:
        query = query.where(Prediction.ood.is_(ood))
    if cursor is not None:
        at, slice_id = paging.decode(cursor, key_type, int)
        beyond = key < at if falling else key > at
        after = Slice.id > slice_id
        query = query.where(after if sort == "position" else or_(beyond, and_(key == at, after)))
    query = query.add_columns(key.label("sort_key")).order_by(key.desc() if falling else key, Slice.id)
    rows = s.execute(query.limit(limit + 1)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    next_cursor = paging.encode(last.sort_key, last[0].id) if last is not None else None
    return Page([_result(job, *row[:4]) for row in rows[:limit]], next_cursor)


def find_row(s: Session, job: Job, slice_id: int) -> ResultRow | None:
    """One slice of a job; None if the job has none of this id."""
    row = s.execute(_rows(job).where(Slice.id == slice_id)).first() if 0 < slice_id < 2**63 else None
    return None if row is None else _result(job, *row)


def _result(
    job: Job, slice_: Slice, prediction: Prediction | None, series: str | None, model: ModelVersion
) -> ResultRow:
    return ResultRow(
        slice_id=slice_.id,
        name=slice_.name,
        frame=slice_.frame,
        series=series,
        state=slice_.state,
        reason=slice_.reason,
        detail=slice_.detail,
        label=None if prediction is None else CLASSES[prediction.positive],
        probability=prediction.probability if prediction else None,
        distance=prediction.distance if prediction else None,
        ood=prediction.ood if prediction else None,
        model_version=model.label,
        recipe=job.recipe,
        sha256=slice_.sha256,
        format=slice_.format,
        width=slice_.width,
        height=slice_.height,
        has_image=slice_.array_row is not None,
        has_heat=prediction is not None,
    )


def iter_results(job: Job) -> Iterator[ResultRow]:
    """All slices of a job in order, in many short reads: a slow client never holds the database."""
    cursor: str | None = None
    while True:
        with read_scope() as s:
            page = results_page(s, job, cursor=cursor, limit=EXPORT_ROWS)
        yield from page.items
        if (cursor := page.next_cursor) is None:
            return


def series_summary(s: Session, job: Job) -> list[SeriesSummary]:
    """The job's series with their counts, in the order in which they came."""
    positive = func.sum(case((Prediction.positive.is_(True), 1), else_=0))
    query = (
        select(
            Series.id,
            Series.label,
            func.count(Slice.id),
            func.count(Prediction.id),
            positive,
            func.avg(Prediction.probability),
        )
        .join(Slice, Slice.series_id == Series.id)
        .outerjoin(
            Prediction, (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
        )
        .where(Series.job_id == job.id)
        .group_by(Series.id, Series.label)
        .order_by(Series.id)
    )
    return [SeriesSummary(i, label, n, p, int(pos or 0), mean) for i, label, n, p, pos, mean in s.execute(query)]


def slice_image(s: Session, job: Job, slice_id: int) -> SliceImage | None:
    """A slice's prepared pixels and heat map; None if the job has no such slice, or it was never prepared.

    Raises storage's FileMissing.
    """
    query = (
        select(Chunk.array_sha256, Slice.array_row, Prediction.cam)
        .join(Chunk, Chunk.id == Slice.chunk_id)
        .outerjoin(
            Prediction, (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
        )
        .where(Slice.id == slice_id, Slice.job_id == job.id)
    )
    row = s.execute(query).first()
    if row is None:
        return None
    array = np.load(storage().local_path(row[0]), mmap_mode="r", allow_pickle=False)
    cam = None if row[2] is None else np.frombuffer(row[2], "<f2").reshape(7, 7).astype(np.float32)
    return SliceImage(np.array(array[row[1]]), cam)
