"""Reads the results of a job: its slices, in keyset pages or in the order of exports."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, ColumnElement, Select, and_, exists, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from db import CLASSES, COVID, ClassName, paging
from db.database import read_scope
from db.ledger.completion import check_kept
from db.ledger.views import OutcomeName, View
from db.models import Job, ModelVersion, Outcome, Patient, Prediction, Review, Series, Slice, Study, Upload, User
from db.paging import BadCursor, Cursor, Page
from db.registry.calibration import calibration_of, limit_of
from db.series.rows import stated_uid

Sort = Literal["position", "series", "name", "probability", "-probability"]
MAX_ROWS = 1_000
NO_SERIES, NO_RANK = 1 << 34, (1 << 28) - 1  # sort keys after all ids of series, and after all ranks


class Result(View):
    """A slice and its outcome."""

    slice_id: int
    name: str
    frame: int
    patient: int | None = Field(description="The number of its patient within the job, from 1.")
    series: str | None
    upload: str = Field(description="The file name of the archive or loose file that was submitted.")
    study_uid: str | None = Field(description="StudyInstanceUID; null if the file states none.")
    series_uid: str | None = Field(description="SeriesInstanceUID; null if the file states none.")
    sop_uid: str | None = Field(description="SOPInstanceUID. A UID of more than 128 characters is cut, and hashed.")
    position: float | None = Field(description="Along the slice's normal towards the head, in mm; null if not stated.")
    series_rank: int | None = Field(
        description="The place in its series, from 0: by position from the feet to the head, or by location, then by "
        "number and name. Null until all files of the job are read."
    )
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
    engine: str | None = Field(description="The engine that predicted it: its library and precision.")
    recipe: str
    sha256: str | None
    format: str | None
    width: int | None
    height: int | None
    notes: list[str] = Field(description="Codes of what was odd about the file; it was read all the same.")


class ResultRow(Result):
    """A slice, its outcome, and whether the slice can be shown."""

    has_image: bool
    has_heat: bool


class ResultsQuery(BaseModel):
    """Which slices of a job to show, in which order, and which page of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: OutcomeName | None = None
    label: ClassName | None = None
    reason: str | None = Field(
        default=None, pattern=r"^[a-z0-9_-]{1,64}$", description="The reason code of a rejection or a quarantine."
    )
    series: int | None = Field(default=None, ge=1, le=2**63 - 1, description="A `series_id` of the job's series.")
    ood: bool | None = Field(
        default=None, description="Only slices that are out of distribution, or only those that are not."
    )
    reviewed: bool | None = Field(
        default=None,
        description="Only slices that you have labelled, or only those that you have not labelled yet. A slice without "
        "an image cannot be labelled, and is neither.",
    )
    sort: Sort = Field(
        default_factory=lambda chosen: "series" if chosen.get("series") else "position",
        description="`position`: as submitted. `series`: by series, and in the order of `series_rank` within each. The "
        "default is `series` if a `series` is chosen, else `position`.",
    )
    cursor: Cursor | None = Field(default=None, description="`next_cursor` of the page before.")
    limit: int = Field(100, ge=1, le=MAX_ROWS)


def _rows(job: Job) -> Select[Any]:
    """Select slices with all that a result states. The caller chooses slices of this job, usually by their ids.

    With `job_id` as a second condition, SQLite would go through all slices of the job instead of looking up the ids.
    """
    owner: Any = (Patient.ordinal, Series.label, Upload.filename, Study.uid, Series.uid)
    rows = _with_owners(joined_to_predictions(select(Slice, Prediction, ModelVersion, *owner), job))
    rows = rows.join(Upload, Upload.id == Slice.upload_id)
    return rows.join(ModelVersion, ModelVersion.id == job.model_version_id)


def _with_owners(rows: Select[Any]) -> Select[Any]:
    """Join series, study and patient to slices, if they have one."""
    return (
        rows.outerjoin(Series, Series.id == Slice.series_id)
        .outerjoin(Study, Study.id == Series.study_id)
        .outerjoin(Patient, Patient.id == Study.patient_id)
    )


def joined_to_predictions(rows: Select[Any], job: Job) -> Select[Any]:
    """Join the predictions of the job's model version to slices, if they have one."""
    made_by_its_version = Prediction.model_version_id == job.model_version_id
    return rows.outerjoin(Prediction, (Prediction.slice_id == Slice.id) & made_by_its_version)


def needs_predictions(query: ResultsQuery) -> bool:
    """Return whether the filters or the order of a query need predictions."""
    return query.label is not None or query.ood is not None or "probability" in query.sort


def filtered(rows: Select[Any], query: ResultsQuery, reader: User | None = None) -> Select[Any]:
    """Keep the slices that match the filters of a query. `reader`: who has labelled them, for the filter `reviewed`."""
    for column, value in ((Slice.state, query.state), (Slice.reason, query.reason), (Slice.series_id, query.series)):
        if value is not None:
            rows = rows.where(column == value)
    if query.label is not None:
        rows = rows.where(Prediction.positive.is_(query.label == COVID))
    if query.ood is not None:
        rows = rows.where(Prediction.ood.is_(query.ood))
    if query.reviewed is not None:
        by_reader = (Review.slice_id == Slice.id, Review.user_id == (reader.id if reader else None))
        is_labelled = exists().where(*by_reader, Review.label.is_not(None))
        rows = rows.where(Slice.array_row.is_not(None), is_labelled if query.reviewed else ~is_labelled)
    return rows


@dataclass(frozen=True)
class Order:
    """An order of slices. `keys`: sort keys that are never null, and that differ for each slice. `types`: their types.

    `falling`: the first key falls. All others rise.
    """

    keys: tuple[Any, ...]
    types: tuple[type, ...]
    falling: bool = False

    def clauses(self, *, backwards: bool = False) -> list[ColumnElement[Any]]:
        """Return the clauses of ORDER BY."""
        falls = [backwards != (self.falling and place == 0) for place in range(len(self.keys))]
        return [key.desc() if falling else key.asc() for key, falling in zip(self.keys, falls, strict=True)]

    def side(self, at: Sequence[Any], *, after: bool) -> ColumnElement[bool]:
        """Return the condition that a slice comes after (or before) the one with the keys `at`."""
        (key, *others), (first, *rest) = self.keys, at
        if not self.falling:
            return tuple_(*self.keys) > tuple_(*at) if after else tuple_(*self.keys) < tuple_(*at)
        later = tuple_(*others) > tuple_(*rest) if after else tuple_(*others) < tuple_(*rest)
        return or_(key < first if after else key > first, and_(key == first, later))


AS_SUBMITTED = (Slice.upload_id, Slice.ordinal, Slice.frame)
"""Sorts the slices of a job in the order of the submission. The ids of its uploads rise with their positions."""


def order_of(sort: Sort) -> Order:
    """Return the order of this name. Slices without a score come last."""
    match sort:
        case "position":
            return Order(AS_SUBMITTED, (int, int, int))
        case "series":
            series = func.coalesce(Slice.series_id, literal(NO_SERIES, BigInteger)) * literal(NO_RANK + 1, BigInteger)
            return Order((series + func.coalesce(Slice.series_rank, NO_RANK), Slice.id), (int, int))
        case "name":
            return Order((Slice.name_key, Slice.id), (str, int))
        case "probability":
            return Order((func.coalesce(Prediction.probability, 2.0), Slice.id), (float, int))
        case "-probability":
            return Order((func.coalesce(Prediction.probability, -1.0), Slice.id), (float, int), falling=True)


def cursor_after(query: ResultsQuery, keys: Sequence[Any]) -> str:
    """Return the cursor of the page that begins after the slice with these keys. It holds only in this order."""
    return paging.encode(query.sort, *keys)


def results_page(s: Session, job: Job, query: ResultsQuery, reader: User | None = None) -> Page[ResultRow]:
    """Return a page of a job's slices. Raises BadCursor: also if the cursor is of another order.

    `reader`: as for `filtered`.
    """
    order = order_of(query.sort)
    # Sort only ids and keys. With whole rows, a page of 100,000 slices took twice as long.
    keys = joined_to_predictions(select(Slice.id, *order.keys), job).where(Slice.job_id == job.id)
    keys = filtered(keys, query, reader)
    if query.cursor is not None:
        sort, *at = paging.decode(query.cursor, str, *order.types)
        if sort != query.sort:
            raise BadCursor("a cursor of another order")
        keys = keys.where(order.side(at, after=True))
    page = s.execute(keys.order_by(*order.clauses()).limit(query.limit + 1)).all()
    last = page[query.limit - 1] if len(page) > query.limit else None
    next_cursor = cursor_after(query, last[1:]) if last is not None else None
    ids = [row[0] for row in page[: query.limit]]
    rows = {row[0].id: row for row in s.execute(_rows(job).where(Slice.id.in_(ids)))}
    return Page([_result(job, *rows[id_]) for id_ in ids], next_cursor)


def find_row(s: Session, job: Job, slice_id: int) -> ResultRow | None:
    """Return a slice of a job, or None if the job has no slice with this id."""
    own = _rows(job).where(Slice.id == slice_id, Slice.job_id == job.id)
    row = s.execute(own).first() if 0 < slice_id < 2**63 else None
    return None if row is None else _result(job, *row)


def _result(
    job: Job,
    slice_: Slice,
    prediction: Prediction | None,
    model: ModelVersion,
    patient: int | None,
    series: str | None,
    upload: str,
    *uids: str | None,
) -> ResultRow:
    study_uid, series_uid = map(stated_uid, uids)
    return ResultRow(
        slice_id=slice_.id,
        name=slice_.name,
        frame=slice_.frame,
        patient=patient,
        series=series,
        upload=upload,
        study_uid=study_uid,
        series_uid=series_uid,
        sop_uid=slice_.sop_uid,
        position=slice_.position,
        series_rank=slice_.series_rank,
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
        engine=prediction.engine if prediction else None,
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
    """Yield the present slices of a job: by patient, by series, and from the feet to the head.

    Slices without a series come last, as submitted. Use many short reads, so that a slow client never blocks the
    database. Raises JobGone if the job is deleted meanwhile, and JobChanged if it is retried.
    """
    order = (Patient.ordinal.nulls_last(), Slice.series_id.nulls_last(), Slice.series_rank.nulls_last(), *AS_SUBMITTED)
    with read_scope() as s:
        rows = _with_owners(select(Slice.id).select_from(Slice)).where(Slice.job_id == job.id)
        ids = array("q", s.scalars(rows.order_by(*order)))  # 8 bytes for each slice
        check_kept(s, job)
    for start in range(0, len(ids), MAX_ROWS):
        yield from _results(job, ids[start : start + MAX_ROWS])


def _results(job: Job, ids: Sequence[int]) -> Iterable[ResultRow]:
    with read_scope() as s:
        rows = {row[0].id: _result(job, *row) for row in s.execute(_rows(job).where(Slice.id.in_(ids)))}
        check_kept(s, job)
    return (rows[id_] for id_ in ids if id_ in rows)
