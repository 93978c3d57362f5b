"""Reads jobs for people and the API: counts, stages, rate and remaining time."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import Field
from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from db import paging
from db.clock import from_now
from db.ledger.tally import notice_of, tallies_of, thresholds_of
from db.ledger.views import JobStateName, Moment, View
from db.models import OPEN_JOB, Chunk, Job, JobState, Outcome, Slice, User, Work, deleted_jobs
from db.models.documents import JobTally
from db.paging import BadCursor, Page
from db.reasons import DAMAGED, DECODER_FAILED, OF_FILES
from db.registry.engine_proofs import refusals

Ended = tuple[datetime, int]
"""When a chunk ended, and how many slices it had."""

FEW, ALONE = 4, 0.9  # from so many patients, and so many patients per slice, each slice is a patient; so for series
MANY, MOST = 3, 0.5  # from so many studies, and this share of all studies, one patient ID may stand for all patients
NO_SERIES = OF_FILES.keys() - DAMAGED - {"bolus_tracking"}  # reasons of files whose series is not known
RATE_SECONDS = 60.0  # the rate of a running job is that of its last minute


class Counts(View):
    """Counts of slices by outcome: received = predicted + rejected + quarantined + cancelled + open."""

    received: int
    predicted: int
    positive: int
    rejected: int
    quarantined: int
    cancelled: int
    open: int


class Stages(View):
    """The progress of a job: slices announced, read and done; files received and unpacked."""

    total: int
    total_known: bool = Field(
        description="False while a packed archive is read that does not announce its files: `total` still grows."
    )
    read: int
    done: int
    uploads: int
    unpacked: int
    dicomdirs: int = Field(
        description="Files named DICOMDIR that were passed over so far. Such a file lists other files and holds no "
        "image, so it is not among the slices."
    )


class JobView(View):
    """A job for people and the API."""

    id: str
    name: str
    owner: str
    state: JobStateName = Field(
        description="`finished`, `cancelled` and `failed` are ends. `finished` says that every slice has its outcome, "
        "not that any was predicted."
    )
    state_text: str = Field(
        description="The state in words for people: `cancelling`, `finished, nothing predicted`, else as `state`."
    )
    nothing_predicted: bool = Field(
        description="The job has ended and none of its slices has a prediction, for example because every file was "
        "rejected. Do not take such a job for a success."
    )
    cancelling: bool
    warning: str | None = Field(
        description="Why an open job waits: no worker has an engine that passed the proof of its model version. "
        "The page of workers tells an admin more."
    )
    model_version: str
    model_version_id: int
    model_note: str
    notice: str
    threshold: float = Field(
        description="The probability from which on a slice is COVID, in float32. A slice's own is in its result."
    )
    thresholds: dict[str, float] = Field(
        description="The probability from which on a slice is COVID, for each engine that predicted slices of the job."
    )
    recipe: str
    priority: int
    counts: Counts
    ood: int | None = Field(
        description="Predicted slices that are out of distribution; null if the model does not measure it."
    )
    each_slice_a_patient: bool = Field(
        description="By the DICOM headers of an ended job, nearly every slice is a patient of its own. An anonymiser "
        "may have removed the patient IDs and given each file new UIDs. Each finding then rests on a single slice."
    )
    each_slice_a_series: bool = Field(
        description="By the DICOM headers of an ended job, nearly every slice is a series of its own. An anonymiser "
        "may have given each file a new Series or Study Instance UID. Each finding then rests on a single slice."
    )
    one_patient_for_all: bool = Field(
        description="Half of the studies of an ended job or more, and at least three, have one patient ID. An "
        "anonymiser may have given all patients the same ID. The finding on this patient then rests on several people. "
        "If the files state no Study Instance UID, each series counts as a study."
    )
    several_scans: bool = Field(
        description="A series of an ended job has slices from several folders that cover the same part of the body. An "
        "anonymiser may have given several scans one Series Instance UID. Without a patient ID, such a series has no "
        "verdict. Export the files with their UIDs or with patient IDs. If they are one scan, put them in one folder."
    )
    stages: Stages
    rejections: dict[str, int] = Field(description="Rejected and quarantined slices by reason code.")
    rate: float = Field(description="Slices per second. 0 for an ended job that was retried.")
    eta_seconds: float | None = Field(
        description="About how long the job will take, at its present rate. Null if that is not known yet."
    )
    created_at: Moment
    started_at: Moment | None
    first_result_at: Moment | None
    finished_at: Moment | None
    retried_at: Moment | None = Field(description="When the job was last opened again after its end.")
    error: str | None

    @property
    def is_open(self) -> bool:
        """Whether the job has not ended."""
        return self.state in OPEN_JOB

    @property
    def is_retryable(self) -> bool:
        """Whether the job has ended, and a retry may predict more of its slices."""
        if self.is_open:
            return False
        is_undecoded = not self.rejections.keys().isdisjoint(("decoder_budget", *DECODER_FAILED))
        return self.state != JobState.FINISHED or self.counts.quarantined > 0 or is_undecoded

    @property
    def settled(self) -> int:
        """How many slices were predicted, rejected or quarantined. A cancelled slice is not done."""
        return self.counts.predicted + self.counts.rejected + self.counts.quarantined


def count_jobs(s: Session) -> dict[str, int]:
    """Count the jobs by state, without deleted jobs."""
    return dict(s.execute(select(Job.state, func.count()).where(Job.deleted_at.is_(None)).group_by(Job.state)).all())


def count_slices(s: Session) -> dict[str, int]:
    """Count the slices by outcome, without those of deleted jobs."""
    kept = Slice.job_id.not_in(deleted_jobs())
    return dict(s.execute(select(Slice.state, func.count()).where(kept).group_by(Slice.state)).all())


def job_view(s: Session, job: Job) -> JobView:
    """Return the present view of a job."""
    return job_views(s, [job])[0]


def job_views(s: Session, jobs: Sequence[Job]) -> list[JobView]:
    """Return the present views of jobs. The number of statements does not grow with the number of jobs.

    The rows of ended jobs are not counted again.
    """
    tallies = tallies_of(s, jobs)
    running = [job.id for job in jobs if job.started_at and not job.finished_at]
    recent, now = _recent(s, running) if running else ({}, None)
    # A job whose chunks have just been predicted does not wait for an engine.
    waiting = [job for job in jobs if job.state in OPEN_JOB and job.id not in recent]
    warnings = refusals(s, {job.model_version_id for job in waiting})
    return [
        _view(job, tallies[job.id], recent.get(job.id, []), now, warnings.get(job.model_version_id)) for job in jobs
    ]


def _recent(s: Session, running: Sequence[str]) -> tuple[dict[str, list[Ended]], datetime | None]:
    """Return, for each running job, when its chunks ended within the last minute, and how many slices they had.

    Also return the database's time, or None if no chunk ended.
    """
    query = select(Chunk.job_id, Chunk.closed_at, Chunk.size, from_now()).order_by(Chunk.closed_at)
    recent = Chunk.closed_at > from_now(-RATE_SECONDS)
    ended: dict[str, list[Ended]] = defaultdict(list)
    rows = s.execute(query.where(Chunk.job_id.in_(running), Chunk.state == Work.DONE, recent)).all()
    for job_id, at, size, _ in rows:
        if at is not None:
            ended[job_id].append((at, size))
    return ended, rows[0][3] if rows else None


def _view(job: Job, tally: JobTally, recent: Sequence[Ended], now: datetime | None, warning: str | None) -> JobView:
    outcomes = {outcome.value: tally.outcomes.get(outcome, 0) for outcome in Outcome}
    received = sum(outcomes.values())
    total = received if job.unpacked_at or job.finished_at else max(received, tally.announced)
    done = received - outcomes[Outcome.OPEN]
    rate = _rate(job, outcomes[Outcome.PREDICTED], recent, now)
    is_open = job.state in OPEN_JOB
    cancelling = is_open and job.cancel_requested_at is not None
    read = received - sum(count for code, count in tally.reasons.items() if code in NO_SERIES)
    nothing_predicted = not is_open and not outcomes[Outcome.PREDICTED]
    state_text = f"{job.state}, nothing predicted" if nothing_predicted else job.state
    return JobView(
        id=job.id,
        name=job.name,
        owner=job.owner.name,
        state=JobState(job.state),
        state_text="cancelling" if cancelling else state_text,
        nothing_predicted=nothing_predicted,
        cancelling=cancelling,
        warning=warning if is_open else None,
        model_version=job.model_version.label,
        model_version_id=job.model_version_id,
        threshold=job.model_version.threshold,
        thresholds=thresholds_of(job, tally),
        model_note=job.model_version.note,
        notice=notice_of(job.model_version, tally.engines),
        recipe=job.recipe,
        priority=job.priority,
        counts=Counts(received=received, positive=tally.positive, **outcomes),
        ood=tally.ood,
        each_slice_a_patient=not is_open and tally.scanned >= max(FEW, ALONE * read),
        each_slice_a_series=not is_open and tally.series >= max(FEW, ALONE * read),
        one_patient_for_all=not is_open and tally.largest >= max(MANY, MOST * tally.studies),
        several_scans=not is_open and tally.several_scans > 0,
        stages=Stages(
            total=total,
            total_known=not tally.unlisted,
            read=received,
            done=done,
            uploads=tally.uploads,
            unpacked=tally.unpacked,
            dicomdirs=tally.dicomdirs,
        ),
        rejections=dict(sorted(tally.reasons.items())),
        rate=round(rate, 2),
        eta_seconds=round((total - done) / rate, 1) if rate > 0 and _is_foreseeable(job, tally) else None,
        created_at=job.created_at,
        started_at=job.started_at,
        first_result_at=job.first_result_at,
        finished_at=job.finished_at,
        retried_at=job.retried_at,
        error=job.error,
    )


def _is_foreseeable(job: Job, tally: JobTally) -> bool:
    """Return whether a job's remaining time can be estimated: it is not cancelled, and all its files are listed."""
    return job.state in OPEN_JOB and job.cancel_requested_at is None and not tally.unlisted


def _rate(job: Job, predicted: int, recent: Sequence[Ended], now: datetime | None) -> float:
    """Return the slices/s of a job: over the last minute while it runs, over the whole time once it has ended.

    While the job runs, the time begins with the first chunk that ended within the last minute. So the rate is not
    lowered by the start of workers, or by the time for which a job was cancelled. An ended job that was retried has no
    rate, because nothing happened between its first end and the retry.
    """
    if job.started_at is None or (job.finished_at is not None and job.retried_at is not None):
        return 0.0
    if job.finished_at is not None:
        return predicted / max((job.finished_at - job.started_at).total_seconds(), 0.001)
    if now is None or not recent:
        return 0.0
    first = recent[0][0]
    later = sum(size for at, size in recent if at > first)
    return later / max((now - first).total_seconds(), 0.001)


def list_jobs(
    s: Session,
    user: User,
    *,
    state: str | None = None,
    key: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
    counted: bool = False,
) -> Page[JobView]:
    """List the jobs of a user, or all jobs for an admin, newest first.

    `key`: list only the user's own job with this Idempotency-Key. `counted`: also count the jobs, for a page that shows
    its place among them. Raises BadCursor.
    """
    owner = None if user.is_admin and key is None else user.id
    wanted = ((Job.owner_id, owner), (Job.idempotency_key, key), (Job.state, state))
    matching = [Job.deleted_at.is_(None), *(column == value for column, value in wanted if value is not None)]
    query = select(Job).where(*matching).order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)
    if cursor is not None:
        at, job_id = paging.decode(cursor, str, str)
        try:
            moment = datetime.fromisoformat(at).astimezone(UTC)
        except (ValueError, OverflowError):
            raise BadCursor("not a cursor of this server") from None
        query = query.where(or_(Job.created_at < moment, and_(Job.created_at == moment, Job.id < job_id)))
    jobs = list(s.scalars(query))
    next_cursor = _cursor(jobs[limit - 1]) if len(jobs) > limit else None
    views = job_views(s, jobs[:limit])
    if not counted:
        return Page(views, next_cursor)
    total = s.scalar(select(func.count()).select_from(Job).where(*matching))
    if cursor is None or not jobs:
        return Page(views, next_cursor, total=total)
    top = jobs[0]
    newer = or_(Job.created_at > top.created_at, and_(Job.created_at == top.created_at, Job.id > top.id))
    first = 1 + (s.scalar(select(func.count()).select_from(Job).where(newer, *matching)) or 0)
    before = select(Job).where(newer, *matching).order_by(Job.created_at, Job.id).offset(limit).limit(1)
    start = s.scalar(before)
    return Page(views, next_cursor, first, total, None if start is None else _cursor(start))


def _cursor(job: Job) -> str:
    return paging.encode(job.created_at.isoformat(), job.id)
