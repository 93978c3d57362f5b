"""A job as people see it: its counts, stages, rate and remaining time, taken from the rows at the moment of asking."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, case, func, or_, select
from sqlalchemy.orm import Session

from db import paging
from db.clock import from_now
from db.models import OPEN_JOB, Chunk, Job, Outcome, Prediction, Slice, Upload, User, Work
from db.paging import BadCursor, Page
from db.registry.engine_proofs import refusal

RATE_SECONDS = 60.0  # the rate of a running job is that of its last minute


@dataclass(frozen=True)
class JobView:
    """A job as people and the API see it. `rate` is slices per second; `eta_seconds` is None when not known.

    `state` alone does not say that anything was predicted: a job of rejected files finishes too.

    `warning` says why an open job waits: no worker has an engine that proved itself. `ood`: predicted slices that lie
    apart from those the model knows; None where the model tells nothing of that.
    """

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
    ood: int | None
    stages: dict[str, Any]
    rejections: dict[str, int]
    rate: float
    eta_seconds: float | None
    created_at: datetime
    started_at: datetime | None
    first_result_at: datetime | None
    finished_at: datetime | None
    error: str | None
    warning: str | None

    @property
    def nothing_predicted(self) -> bool:
        """Whether the job has ended and none of its slices has a prediction. That is not a success."""
        return self.state not in OPEN_JOB and not self.counts["predicted"]

    @property
    def state_text(self) -> str:
        """The state in words, the same on the page, in the API and on the command line."""
        if self.cancelling:
            return "cancelling"
        return f"{self.state}, nothing predicted" if self.nothing_predicted else self.state

    def as_dict(self) -> dict[str, Any]:
        """Return the view as JSON, with times in RFC 3339."""
        values = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}
        return values | {"state_text": self.state_text, "nothing_predicted": self.nothing_predicted}


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
    positive, ood = _count_predictions(s, job.id)
    counts = {
        "received": received,
        "predicted": by_state[Outcome.PREDICTED],
        "positive": positive,
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
        ood=ood,
        stages={"total": total, "read": received, "done": done, "uploads": unpacked[1], "unpacked": unpacked[0]},
        rejections=rejections,
        rate=round(rate, 2),
        eta_seconds=round((total - done) / rate, 1) if job.state in OPEN_JOB and rate > 0 else None,
        created_at=job.created_at,
        started_at=job.started_at,
        first_result_at=job.first_result_at,
        finished_at=job.finished_at,
        error=job.error,
        warning=refusal(s, job.model_version_id) if job.state in OPEN_JOB else None,
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


def _count_predictions(s: Session, job_id: str) -> tuple[int, int | None]:
    """The positive ones, and those whose slices lie apart; None for these where no prediction tells."""
    positive = func.count().filter(Prediction.positive.is_(True))
    apart = func.count().filter(Prediction.ood.is_(True))
    row = s.execute(select(positive, apart, func.count(Prediction.ood)).where(Prediction.job_id == job_id)).one()
    return int(row[0]), int(row[1]) if row[2] else None


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
        at, job_id = paging.decode(cursor, str, str)
        try:
            moment = datetime.fromisoformat(at).astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadCursor("not a cursor of this server") from None
        query = query.where(or_(Job.created_at < moment, and_(Job.created_at == moment, Job.id < job_id)))
    jobs = list(s.scalars(query))
    more = jobs[limit - 1 : limit] if len(jobs) > limit else []
    next_cursor = paging.encode(more[0].created_at.isoformat(), more[0].id) if more else None
    return Page([job_view(s, job) for job in jobs[:limit]], next_cursor)
