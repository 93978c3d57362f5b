"""Sums over the rows of a job. While the job is open, the rows are counted. When it ends, the sums are stored."""

import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

from sqlalchemy import ColumnElement, String, cast, func, or_, select
from sqlalchemy.orm import Session

from db import FAKE_ENGINE, MADE_UP, RESEARCH_USE_ONLY
from db.models import Job, ModelVersion, Outcome, Patient, Prediction, Series, Slice, Study, Upload
from db.models.documents import JobTally
from db.registry.calibration import calibration_of
from db.series.geometry import SEVERAL_SCANS
from db.series.rows import FOLDER, NO_STUDY

KEPT_FROM = 10_000  # slices; fewer are counted in some milliseconds

_kept: dict[str, tuple[float, JobTally]] = {}  # sums of large open jobs, and until when they are used, by job
_counting = threading.Lock()


def tallies_of(s: Session, jobs: Collection[Job]) -> dict[str, JobTally]:
    """Return the sums of jobs by id. Use stored sums if there are any, and count the rows of other jobs.

    This process uses the sums of a large open job for as long as it took to count them, which is seconds for a million
    slices. Otherwise each open page of the job would keep a core busy.
    """
    stored = {job.id: job.tally for job in jobs if job.tally is not None}
    for job_id in stored:
        _kept.pop(job_id, None)
    job_ids = [job.id for job in jobs if job.tally is None]
    with nullcontext() if _kept.keys().isdisjoint(job_ids) else _counting:  # one reader counts, and others wait
        began = time.monotonic()
        sums = ((job_id, *_kept.get(job_id, (0.0, JobTally()))) for job_id in job_ids)
        kept = {job_id: tally for job_id, until, tally in sums if began < until}
        counted = count_tallies(s, [job_id for job_id in job_ids if job_id not in kept])
        now = time.monotonic()
        for job_id, tally in counted.items():
            _kept.pop(job_id, None)
            if sum(tally.outcomes.values()) >= KEPT_FROM:
                _kept[job_id] = (2 * now - began, tally)
    return stored | kept | counted


def thresholds_of(job: Job, tally: JobTally) -> dict[str, float]:
    """Return the threshold of each engine that predicted slices of a job."""
    return {engine: calibration_of(job.model_version, engine)[1] for engine in tally.engines}


def notice_of(version: ModelVersion, engines: Iterable[str | None]) -> str:
    """Return the notice for scores that these engines made with a model version.

    It has the version's note, and says so if the engine `fake` made some of the scores up.
    """
    note = f"Model {version.label}: {version.note.rstrip('.')}." if version.note else ""
    parts = (MADE_UP if FAKE_ENGINE in engines else "", note, RESEARCH_USE_ONLY)
    return " ".join(part for part in parts if part)


def count_tallies(s: Session, job_ids: Collection[str]) -> dict[str, JobTally]:
    """Count the rows of jobs. The number of statements does not grow with the number of jobs."""
    if not job_ids:
        return {}
    sums: dict[str, dict[str, Any]] = {job_id: {"outcomes": {}, "reasons": {}, "engines": {}} for job_id in job_ids}
    _add_slices(s, sums)
    _add_predictions(s, sums)
    _add_uploads(s, sums)
    return {job_id: JobTally(**values) for job_id, values in sums.items()}


def _add_slices(s: Session, sums: Mapping[str, dict[str, Any]]) -> None:
    columns = (Slice.job_id, Slice.state, Slice.reason)
    query = select(*columns, func.count()).where(Slice.job_id.in_(sums)).group_by(*columns)
    for job_id, state, reason, count in s.execute(query):
        outcomes, reasons = sums[job_id]["outcomes"], sums[job_id]["reasons"]
        outcomes[state] = outcomes.get(state, 0) + count
        if reason is not None and state in (Outcome.REJECTED, Outcome.QUARANTINED):
            reasons[reason] = reasons.get(reason, 0) + count


def _add_predictions(s: Session, sums: Mapping[str, dict[str, Any]]) -> None:
    """Count the predictions by engine, the positive ones, and those out of distribution if the model measures it."""
    positive = func.count().filter(Prediction.positive.is_(True))
    ood = func.count().filter(Prediction.ood.is_(True))
    columns = (Prediction.job_id, Prediction.engine)
    query = select(*columns, func.count(), positive, ood, func.count(Prediction.ood))
    for job_id, engine, count, positives, outside, measured in s.execute(
        query.where(Prediction.job_id.in_(sums)).group_by(*columns).order_by(*columns)
    ):
        of_job = sums[job_id]
        of_job["engines"][engine] = count
        of_job["positive"] = of_job.get("positive", 0) + positives
        if measured:
            of_job["ood"] = of_job.get("ood", 0) + outside


def _add_uploads(s: Session, sums: Mapping[str, dict[str, Any]]) -> None:
    unlisted = func.count().filter(Upload.entries.is_(None), Upload.closed_at.is_(None))
    totals = (func.sum(func.coalesce(Upload.entries, 0)), func.sum(Upload.dicomdirs))
    counts = (unlisted, func.count(), func.count(Upload.closed_at), *_counts_of_headers())
    columns: Any = (Upload.job_id, *totals, *counts)
    names = ("announced", "dicomdirs", "unlisted", "uploads", "unpacked", *HEADER_COUNTS)
    query = select(*columns).where(Upload.job_id.in_(sums)).group_by(Upload.job_id)
    for job_id, *numbers in s.execute(query):
        sums[job_id] |= dict(zip(names, map(int, numbers), strict=True))


HEADER_COUNTS = ("scanned", "several_scans", "studies", "largest", "series")


def _counts_of_headers() -> Iterator[ColumnElement[int]]:
    """Yield the sums of `HEADER_COUNTS` over the job of an upload, which show how well headers keep patients apart."""
    states_study = ~Study.uid.startswith(NO_STUDY, autoescape=True)  # a folder of pictures states none
    of_job = Study.job_id == Upload.job_id
    yield select(func.count(Study.patient_id.distinct())).where(of_job, states_study).scalar_subquery()
    is_joined = cast(Series.notes, String).contains(SEVERAL_SCANS, autoescape=True)
    yield select(func.count()).where(Series.job_id == Upload.job_id, is_joined).scalar_subquery()
    studies = select(func.count(Study.id)).join(Patient, Patient.id == Study.patient_id).where(of_job)
    yield studies.where(or_(Patient.is_known, states_study)).scalar_subquery()
    by_size = studies.where(Patient.is_known).group_by(Patient.id).order_by(func.count(Study.id).desc()).limit(1)
    yield func.coalesce(by_size.scalar_subquery(), 0)
    states_series = ~Series.uid.startswith(FOLDER, autoescape=True)
    yield select(func.count()).where(Series.job_id == Upload.job_id, states_series).scalar_subquery()
