"""The results of a job: its slices by keyset pages, and as images."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session

from db import CLASSES, COVID, ClassName, paging
from db.database import read_scope
from db.ledger.views import OutcomeName, View
from db.models import Chunk, Job, ModelVersion, Outcome, Prediction, Series, Slice
from db.paging import Cursor, Page
from db.registry.calibration import calibration_of, limit_of
from db.storage import FileDamaged, storage

Sort = Literal["position", "name", "probability", "-probability"]
MAX_ROWS = 1_000


class Result(View):
    """One slice and its one outcome."""

    slice_id: int
    name: str
    frame: int
    series: str | None
    state: OutcomeName
    reason: str | None
    detail: str | None
    label: ClassName | None = Field(description="Null unless it was predicted.")
    probability: float | None
    threshold: float | None = Field(description="The probability from which on the label is COVID.")
    distance: float | None = Field(
        description="How far the slice lies from those that the model was trained on; null if the model does not "
        "measure it."
    )
    distance_limit: float | None = Field(description="The distance above which a slice is out of distribution.")
    ood: bool | None = Field(
        description="Whether the slice is out of distribution: its distance is too large for its score to be relied on."
    )
    model_version: str
    recipe: str
    sha256: str | None
    format: str | None
    width: int | None
    height: int | None
    notes: list[str] = Field(description="Codes of what was odd about the file; it was read all the same.")


class ResultRow(Result):
    """One slice and its one outcome, and whether it can be shown."""

    has_image: bool
    has_heat: bool


class ResultsQuery(BaseModel):
    """Which slices of a job, in which order, and which page of them."""

    model_config = ConfigDict(frozen=True)

    state: OutcomeName | None = None
    label: ClassName | None = None
    reason: str | None = Field(default=None, pattern=r"^[a-z0-9_-]{1,64}$", description="A rejection's reason code.")
    series: int | None = Field(default=None, ge=1, le=2**63 - 1, description="A `series_id` of the job's series.")
    ood: bool | None = Field(
        default=None, description="Only slices that are out of distribution, or only those that are not."
    )
    sort: Sort = "position"
    cursor: Cursor | None = Field(default=None, description="`next_cursor` of the page before.")
    limit: int = Field(100, ge=1, le=MAX_ROWS)


@dataclass(frozen=True)
class SliceImage:
    """A prepared slice, uint8[224, 224], and its heat map, float32[7, 7], where it was predicted.

    `aspect`: width / height of the received picture.
    """

    pixels: NDArray[np.uint8]
    cam: NDArray[np.float32] | None
    aspect: float


def _rows(job: Job) -> Select[Any]:
    columns: Any = select(Slice, Prediction, Series.label, ModelVersion)
    return (
        joined_to_predictions(columns, job)
        .outerjoin(Series, Series.id == Slice.series_id)
        .join(ModelVersion, ModelVersion.id == job.model_version_id)
        .where(Slice.job_id == job.id)
    )


def joined_to_predictions(rows: Select[Any], job: Job) -> Select[Any]:
    """Join the predictions of the job's model version to slices, where there are any."""
    made_by_its_version = Prediction.model_version_id == job.model_version_id
    return rows.outerjoin(Prediction, (Prediction.slice_id == Slice.id) & made_by_its_version)


def needs_predictions(query: ResultsQuery) -> bool:
    """Return whether the filters or the order of a query look at predictions."""
    return query.label is not None or query.ood is not None or "probability" in query.sort


def filtered(rows: Select[Any], query: ResultsQuery) -> Select[Any]:
    """Keep the slices that match the filters of a query."""
    for column, value in ((Slice.state, query.state), (Slice.reason, query.reason), (Slice.series_id, query.series)):
        if value is not None:
            rows = rows.where(column == value)
    if query.label is not None:
        rows = rows.where(Prediction.positive.is_(query.label == COVID))
    if query.ood is not None:
        rows = rows.where(Prediction.ood.is_(query.ood))
    return rows


def sorting(sort: Sort) -> tuple[Any, type, bool]:
    """Return the sort key (never null), its Python type, and whether it falls. Slices without a score come last."""
    match sort:
        case "position":
            return Slice.id, int, False
        case "name":
            return Slice.name_key, str, False
        case "probability":
            return func.coalesce(Prediction.probability, 2.0), float, False
        case "-probability":
            return func.coalesce(Prediction.probability, -1.0), float, True


def side(sort: Sort, at: Any, slice_id: int, *, after: bool) -> ColumnElement[bool]:
    """Return the condition of the slices after, or before, the one with this sort key and id."""
    key, _, falling = sorting(sort)
    later = Slice.id > slice_id if after else Slice.id < slice_id
    if sort == "position":
        return later
    beyond = key > at if after != falling else key < at
    return or_(beyond, and_(key == at, later))


def results_page(s: Session, job: Job, query: ResultsQuery) -> Page[ResultRow]:
    """Return a page of a job's slices. Raises BadCursor."""
    key, key_type, falling = sorting(query.sort)
    rows = filtered(_rows(job), query)
    if query.cursor is not None:
        at, slice_id = paging.decode(query.cursor, key_type, int)
        rows = rows.where(side(query.sort, at, slice_id, after=True))
    ordered = rows.add_columns(key.label("sort_key")).order_by(key.desc() if falling else key, Slice.id)
    page = s.execute(ordered.limit(query.limit + 1)).all()
    last = page[query.limit - 1] if len(page) > query.limit else None
    next_cursor = paging.encode(last.sort_key, last[0].id) if last is not None else None
    return Page([_result(job, *row[:4]) for row in page[: query.limit]], next_cursor)


def find_row(s: Session, job: Job, slice_id: int) -> ResultRow | None:
    """Return one slice of a job, or None if the job has none of this id."""
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
        state=Outcome(slice_.state),
        reason=slice_.reason,
        detail=slice_.detail,
        label=None if prediction is None else CLASSES[prediction.positive],
        probability=prediction.probability if prediction else None,
        threshold=calibration_of(model, prediction.engine)[1] if prediction else None,
        distance=prediction.distance if prediction else None,
        distance_limit=limit_of(model.ood, prediction.engine) if prediction else None,
        ood=prediction.ood if prediction else None,
        model_version=model.label,
        recipe=job.recipe,
        sha256=slice_.sha256,
        format=slice_.format,
        width=slice_.width,
        height=slice_.height,
        notes=slice_.notes,
        has_image=slice_.array_row is not None,
        has_heat=prediction is not None,
    )


def iter_results(job: Job) -> Iterator[ResultRow]:
    """Yield all slices of a job in order, by many short reads: a slow client never holds the database."""
    query: ResultsQuery | None = ResultsQuery(limit=MAX_ROWS)
    while query is not None:
        with read_scope() as s:
            page = results_page(s, job, query)
        yield from page.items
        query = query.model_copy(update={"cursor": page.next_cursor}) if page.next_cursor else None


def slice_image(s: Session, job: Job, slice_id: int) -> SliceImage | None:
    """Return a slice's prepared pixels and heat map, or None if the job has no such slice or it was never prepared.

    Raises storage's FileMissing and FileDamaged.
    """
    query = (
        select(Chunk.array_sha256, Slice.array_row, Slice.pixels_sha256, Prediction.cam, Slice.width, Slice.height)
        .join(Chunk, Chunk.id == Slice.chunk_id)
        .outerjoin(
            Prediction, (Prediction.slice_id == Slice.id) & (Prediction.model_version_id == job.model_version_id)
        )
        .where(Slice.id == slice_id, Slice.job_id == job.id)
    )
    row = s.execute(query).first()
    if row is None:
        return None
    cam = None if row.cam is None else np.frombuffer(row.cam, "<f2").reshape(7, 7).astype(np.float32)
    aspect = row.width / row.height if row.width and row.height else 1.0
    return SliceImage(slice_pixels(row.array_sha256, row.array_row, row.pixels_sha256), cam, aspect)


def slice_pixels(array_sha256: str, array_row: int, pixels_sha256: str) -> NDArray[np.uint8]:
    """Return one slice of an array file, uint8[224, 224], after checking its own hash.

    The whole file is a hundred times as large. Raises storage's FileMissing and FileDamaged.
    """
    path = storage().local_path(array_sha256)
    try:
        pixels = np.array(np.load(path, mmap_mode="r", allow_pickle=False)[array_row])
    except (ValueError, EOFError, IndexError) as error:
        raise FileDamaged(f"the file {array_sha256} is not an array with this slice") from error
    if hashlib.sha256(pixels.data).hexdigest() != pixels_sha256:
        raise FileDamaged(f"a slice in the file {array_sha256} holds other pixels")
    return pixels
