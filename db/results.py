"""Reading: a job as people see it, its results by keyset pages, its rejections, and the images of its slices."""

import base64
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, and_, case, func, or_, select
from sqlalchemy.orm import Session

from db.base import from_now, read_scope
from db.models import OPEN_JOB, Chunk, Job, ModelVersion, Outcome, Prediction, Series, Slice, Upload, User, Work
from db.storage import storage

T = TypeVar("T")
Sort = Literal["position", "name", "probability", "-probability"]
SORTS: tuple[str, ...] = get_args(Sort)
POSITIVE, NEGATIVE = "COVID", "non-COVID"
RATE_SECONDS = 60.0  # the rate of a running job is that of its last minute
EXPORT_ROWS = 2_000


class BadCursor(ValueError):
    """A page's cursor that this server did not make."""


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and where the next ones begin (None: there are none)."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True)
class JobView:
    """A job as people and the API see it. `rate` is slices per second; `eta_seconds` is None when not known."""

    id: str
    name: str
    owner: str
    state: str
    cancelling: bool
    model_version: str
    model_note: str
    recipe: str
    priority: int
    counts: dict[str, int]
    stages: dict[str, Any]
    rejections: dict[str, int]
    rate: float
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    first_result_at: datetime | None
    finished_at: datetime | None
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON: times in RFC 3339."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class ResultRow:
    """One slice and its outcome. `label` and `probability` only where it was predicted."""

    slice_id: int
    name: str
    frame: int
    series: str | None
    state: str
    reason: str | None
    detail: str | None
    label: str | None
    probability: float | None
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


def find_job(s: Session, job_id: str, user: User) -> Job | None:
    """The job, if this user may see it: their own, or any for an admin."""
    job = s.get(Job, job_id)
    return job if job and (user.is_admin or job.owner_id == user.id) else None


def count_jobs(s: Session) -> dict[str, int]:
    """All jobs by state."""
    return dict(s.execute(select(Job.state, func.count()).group_by(Job.state)).all())


def count_slices(s: Session) -> dict[str, int]:
    """All slices by outcome."""
    return dict(s.execute(select(Slice.state, func.count()).group_by(Slice.state)).all())


def job_view(s: Session, job: Job) -> JobView:
    """The job with its counts, taken from the rows at this moment."""
    by_state, rejections = _count(s, job.id)
    received = sum(by_state.values())
    counts = {
        "received": received,
        "predicted": by_state[Outcome.PREDICTED],
        "positive": s.scalar(select(func.count()).where(Prediction.job_id == job.id, Prediction.positive.is_(True)))
        or 0,
        **{o.value: by_state[o] for o in (Outcome.REJECTED, Outcome.QUARANTINED, Outcome.CANCELLED, Outcome.OPEN)},
    }
    announced, unpacked = _announced(s, job.id)
    total = received if job.unpacked_at or job.finished_at else max(received, announced)
    done = received - by_state[Outcome.OPEN]
    rate = _rate(s, job, by_state[Outcome.PREDICTED])
    return JobView(
        id=job.id,
        name=job.name,
        owner=job.owner.name,
        state=job.state,
        cancelling=job.cancel_requested_at is not None and job.state in OPEN_JOB,
        model_version=job.model_version.label,
        model_note=job.model_version.note,
        recipe=job.recipe,
        priority=job.priority,
        counts=counts,
        stages={"total": total, "read": received, "done": done, "uploads": unpacked[1], "unpacked": unpacked[0]},
        rejections=rejections,
        rate=round(rate, 2),
        eta_seconds=round((total - done) / rate, 1) if job.state in OPEN_JOB and rate > 0 else None,
        created_at=job.created_at,
        started_at=job.started_at,
        first_result_at=job.first_result_at,
        finished_at=job.finished_at,
        error=job.error,
    )


def _count(s: Session, job_id: str) -> tuple[dict[str, int], dict[str, int]]:
    by_state = {outcome.value: 0 for outcome in Outcome}
    reasons: dict[str, int] = {}
    query = select(Slice.state, Slice.reason, func.count()).where(Slice.job_id == job_id)
    for state, reason, count in s.execute(query.group_by(Slice.state, Slice.reason)):
        by_state[state] += count
        if reason is not None and state in (Outcome.REJECTED, Outcome.QUARANTINED):
            reasons[reason] = reasons.get(reason, 0) + count
    return by_state, dict(sorted(reasons.items()))


def _announced(s: Session, job_id: str) -> tuple[int, tuple[int, int]]:
    """Entries that the uploads' listings announce, and how many uploads are unpacked, of how many."""
    closed = func.sum(case((Upload.closed_at.is_not(None), 1), else_=0))
    row = s.execute(select(func.sum(Upload.entries), closed, func.count()).where(Upload.job_id == job_id)).one()
    return int(row[0] or 0), (int(row[1] or 0), int(row[2]))


def _rate(s: Session, job: Job, predicted: int) -> float:
    """Slices per second: over the last minute while running, over the whole once ended."""
    now: datetime | None = s.scalar(select(from_now()))
    if job.started_at is None or now is None:
        return 0.0
    if job.finished_at is not None:
        seconds: float = (job.finished_at - job.started_at).total_seconds()
        return predicted / max(seconds, 0.001)
    age = (now - job.started_at).total_seconds()
    recent = s.scalar(
        select(func.sum(Chunk.size)).where(
            Chunk.job_id == job.id, Chunk.state == Work.DONE, Chunk.closed_at > from_now(-RATE_SECONDS)
        )
    )
    return float(recent or 0) / max(min(age, RATE_SECONDS), 0.001)


def rejections(s: Session, job: Job) -> list[tuple[str, int]]:
    """Reason codes of rejected and quarantined slices with their counts, most frequent first."""
    return sorted(_count(s, job.id)[1].items(), key=lambda item: (-item[1], item[0]))


def list_jobs(
    s: Session, user: User, *, state: str | None = None, cursor: str | None = None, limit: int = 50
) -> Page[JobView]:
    """A user's jobs, an admin's view of all, newest first. Raises BadCursor."""
    query = select(Job).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)
    if not user.is_admin:
        query = query.where(Job.owner_id == user.id)
    if state is not None:
        query = query.where(Job.state == state)
    if cursor is not None:
        at, job_id = _decode(cursor, str, str)
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            raise BadCursor("not a cursor of this server") from None
        query = query.where(or_(Job.created_at < moment, and_(Job.created_at == moment, Job.id < job_id)))
    jobs = list(s.scalars(query))
    more = jobs[limit - 1 : limit] if len(jobs) > limit else []
    next_cursor = _encode(more[0].created_at.isoformat(), more[0].id) if more else None
    return Page([job_view(s, job) for job in jobs[:limit]], next_cursor)


def _encode(*key: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _decode(cursor: str, *types: type) -> list[Any]:
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except ValueError:
        raise BadCursor("not a cursor of this server") from None
    if not isinstance(key, list) or len(key) != len(types):
        raise BadCursor("not a cursor of this server")
    if not all(_fits(value, type_) for value, type_ in zip(key, types, strict=True)):
        raise BadCursor("not a cursor of this server")
    return key


def _fits(value: Any, type_: type) -> bool:
    """Whether a database takes this part of a cursor: no NUL in text, no integer past 64 bits, no infinity."""
    if type(value) is str:
        return type_ is str and "\0" not in value
    if type(value) is int:
        return type_ in (int, float) and abs(value) < 2**63
    return type(value) is float and type_ is float and math.isfinite(value)


def _rows(job: Job) -> Select[*tuple[Any, ...]]:
    return (
        select(Slice, Prediction.probability, Prediction.positive, Series.label, ModelVersion)
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
        query = query.where(Prediction.positive.is_(label == POSITIVE))
    if cursor is not None:
        at, slice_id = _decode(cursor, key_type, int)
        beyond = key < at if falling else key > at
        query = query.where(or_(beyond, and_(key == at, Slice.id > slice_id)))
    query = query.add_columns(key.label("sort_key")).order_by(key.desc() if falling else key, Slice.id)
    rows = s.execute(query.limit(limit + 1)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    next_cursor = _encode(last[5], last[0].id) if last is not None else None
    return Page([_result(job, *row[:5]) for row in rows[:limit]], next_cursor)


def find_row(s: Session, job: Job, slice_id: int) -> ResultRow | None:
    """One slice of a job; None if the job has none of this id."""
    row = s.execute(_rows(job).where(Slice.id == slice_id)).first() if 0 < slice_id < 2**63 else None
    return None if row is None else _result(job, *row)


def _result(
    job: Job, slice_: Slice, probability: float | None, positive: bool | None, series: str | None, model: ModelVersion
) -> ResultRow:
    return ResultRow(
        slice_id=slice_.id,
        name=slice_.name,
        frame=slice_.frame,
        series=series,
        state=slice_.state,
        reason=slice_.reason,
        detail=slice_.detail,
        label=None if positive is None else (POSITIVE if positive else NEGATIVE),
        probability=probability,
        model_version=model.label,
        recipe=job.recipe,
        sha256=slice_.sha256,
        format=slice_.format,
        width=slice_.width,
        height=slice_.height,
        has_image=slice_.array_row is not None,
        has_heat=probability is not None,
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
