"""A job as people see it: its counts, stages, rate and remaining time, taken from the rows at the moment of asking."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from db import paging
from db.clock import from_now
from db.models import OPEN_JOB, Chunk, Job, Outcome, Prediction, Slice, Upload, User, Work
from db.paging import BadCursor, Page
from db.registry.engine_proofs import refusals

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
    def is_open(self) -> bool:
        """Whether the job has not ended."""
        return self.state in OPEN_JOB

    @property
    def nothing_predicted(self) -> bool:
        """Whether the job has ended and none of its slices has a prediction. That is not a success."""
        return not self.is_open and not self.counts["predicted"]

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


def count_jobs(s: Session) -> dict[str, int]:
    """All jobs by state."""
    return dict(s.execute(select(Job.state, func.count()).group_by(Job.state)).all())


def count_slices(s: Session) -> dict[str, int]:
    """All slices by outcome."""
    return dict(s.execute(select(Slice.state, func.count()).group_by(Slice.state)).all())


@dataclass
class _Tally:
    """The sums over the rows of one job."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    positive: int = 0
    ood: int | None = None
    announced: int = 0
    uploads: int = 0
    unpacked: int = 0
    recent: int = 0


def job_view(s: Session, job: Job) -> JobView:
    """View one job as its rows are at this moment."""
    return job_views(s, [job])[0]


def job_views(s: Session, jobs: Sequence[Job]) -> list[JobView]:
    """View jobs as their rows are at this moment; the number of statements does not grow with that of the jobs."""
    tallies = {job.id: _Tally() for job in jobs}
    _add_slices(s, tallies)
    _add_predictions(s, tallies)
    _add_uploads(s, tallies)
    if running := [job.id for job in jobs if job.started_at and not job.finished_at]:
        _add_recent(s, tallies, running)
    now = s.scalar(select(from_now())) if running else None
    warnings = refusals(s, {job.model_version_id for job in jobs if job.state in OPEN_JOB})
    return [_view(job, tallies[job.id], now, warnings.get(job.model_version_id)) for job in jobs]


def _add_slices(s: Session, tallies: Mapping[str, _Tally]) -> None:
    columns = (Slice.job_id, Slice.state, Slice.reason)
    for job_id, state, reason, count in s.execute(
        select(*columns, func.count()).where(Slice.job_id.in_(tallies)).group_by(*columns)
    ):
        tallies[job_id].outcomes[state] += count
        if reason is not None and state in (Outcome.REJECTED, Outcome.QUARANTINED):
            tallies[job_id].reasons[reason] += count


def _add_predictions(s: Session, tallies: Mapping[str, _Tally]) -> None:
    """Count those that are positive or out of distribution; no prediction of some models says the latter."""
    positive = func.count().filter(Prediction.positive.is_(True))
    ood = func.count().filter(Prediction.ood.is_(True))
    query = select(Prediction.job_id, positive, ood, func.count(Prediction.ood))
    for job_id, positives, outside, measured in s.execute(
        query.where(Prediction.job_id.in_(tallies)).group_by(Prediction.job_id)
    ):
        tallies[job_id].positive = positives
        tallies[job_id].ood = outside if measured else None


def _add_uploads(s: Session, tallies: Mapping[str, _Tally]) -> None:
    """Count uploads, those that are unpacked, and the entries that their listings announce."""
    query = select(Upload.job_id, func.sum(Upload.entries), func.count(), func.count(Upload.closed_at))
    for job_id, entries, uploads, unpacked in s.execute(
        query.where(Upload.job_id.in_(tallies)).group_by(Upload.job_id)
    ):
        tally = tallies[job_id]
        tally.announced, tally.uploads, tally.unpacked = int(entries), uploads, unpacked


def _add_recent(s: Session, tallies: Mapping[str, _Tally], running: Sequence[str]) -> None:
    """Count the slices of running jobs that were predicted within the last minute."""
    query = select(Chunk.job_id, func.sum(Chunk.size)).group_by(Chunk.job_id)
    recent = Chunk.closed_at > from_now(-RATE_SECONDS)
    for job_id, size in s.execute(query.where(Chunk.job_id.in_(running), Chunk.state == Work.DONE, recent)):
        tallies[job_id].recent = int(size)


def _view(job: Job, tally: _Tally, now: datetime | None, warning: str | None) -> JobView:
    received = tally.outcomes.total()
    predicted, waiting = tally.outcomes[Outcome.PREDICTED], tally.outcomes[Outcome.OPEN]
    total = received if job.unpacked_at or job.finished_at else max(received, tally.announced)
    done = received - waiting
    rate = _rate(job, tally, now)
    is_open = job.state in OPEN_JOB
    return JobView(
        id=job.id,
        name=job.name,
        owner=job.owner.name,
        state=job.state,
        cancelling=job.cancel_requested_at is not None and is_open,
        model_version=job.model_version.label,
        model_note=job.model_version.note,
        recipe=job.recipe,
        priority=job.priority,
        counts={
            "received": received,
            "predicted": predicted,
            "positive": tally.positive,
            "rejected": tally.outcomes[Outcome.REJECTED],
            "quarantined": tally.outcomes[Outcome.QUARANTINED],
            "cancelled": tally.outcomes[Outcome.CANCELLED],
            "open": waiting,
        },
        ood=tally.ood,
        stages={"total": total, "read": received, "done": done, "uploads": tally.uploads, "unpacked": tally.unpacked},
        rejections=dict(sorted(tally.reasons.items())),
        rate=round(rate, 2),
        eta_seconds=round((total - done) / rate, 1) if is_open and rate > 0 else None,
        created_at=job.created_at,
        started_at=job.started_at,
        first_result_at=job.first_result_at,
        finished_at=job.finished_at,
        error=job.error,
        warning=warning if is_open else None,
    )


def _rate(job: Job, tally: _Tally, now: datetime | None) -> float:
    """Return slices per second: over the last minute while the job runs, over its whole time once it has ended."""
    if job.started_at is None:
        return 0.0
    if job.finished_at is not None:
        return tally.outcomes[Outcome.PREDICTED] / max((job.finished_at - job.started_at).total_seconds(), 0.001)
    age = (now - job.started_at).total_seconds() if now else RATE_SECONDS
    return tally.recent / max(min(age, RATE_SECONDS), 0.001)


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
    return Page(job_views(s, jobs[:limit]), next_cursor)
