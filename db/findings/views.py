"""Reads the findings of a job for people and the API, in keyset pages."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from db import ClassName, paging
from db.database import read_scope
from db.models import Finding, Job, Level, Patient, Series, Study
from db.paging import Cursor, Page
from db.series.rows import stated_uid
from db.series.uploads import UploadNames, upload_names

LevelName = Literal["patient", "study", "series"]
VerdictName = Literal["COVID", "non-COVID", "none"]
NO_VERDICT = "none"
MAX_ROWS = 1_000


class FindingsReplaced(Exception):
    """The findings of a job were removed or written while they were exported. The rows so far may miss some."""


class FindingView(BaseModel):
    """The verdict on one patient, study or series."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    finding_id: int
    level: LevelName
    patient: int = Field(description="The number of the patient within the job, from 1.")
    patient_known: bool = Field(description="False if the files do not say whose they are: the study stands alone.")
    study_id: int | None
    study_uid: str | None = Field(description="Study Instance UID; null if the file states none.")
    series_id: int | None
    series_uid: str | None = Field(description="Series Instance UID; null if the file states none.")
    series: str | None
    uploads: list[str] = Field(description="The file names of the archives and loose files that hold its slices.")
    verdict: ClassName | None = Field(description="Null if the finding gives no verdict; `reason` says why.")
    reason: str | None
    score: float | None
    threshold: float = Field(description="The lowest score for which the verdict is COVID.")
    low: float | None = Field(
        description="The share of such verdicts that were right when the rule was tuned: lower end of the "
        "95 % interval. Null if the rule was not tuned."
    )
    high: float | None = Field(description="Upper end of that interval.")
    rule: str
    rule_version: int
    k: int | None
    used: int = Field(description="Slices that the score rests on.")
    ood: int | None = Field(description="Slices of these that are out of distribution; null if that is not measured.")
    left_out: dict[str, int] = Field(description="Slices that were left out, by reason.")
    notes: list[str] = Field(description="Codes of what is odd about the series, such as `gap`.")


class FindingsQuery(BaseModel):
    """Which findings of a job to show, and which page of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: LevelName | None = None
    verdict: VerdictName | None = Field(default=None, description="`none`: findings without a verdict.")
    patient: int | None = Field(default=None, ge=1, le=2**31 - 1, description="Only those of this patient.")
    find: str = Field(default="", max_length=200, description="Only series whose name contains this.")
    cursor: Cursor | None = Field(default=None, description="`next_cursor` of the page before.")
    limit: int = Field(100, ge=1, le=MAX_ROWS)


def findings_page(s: Session, job: Job, query: FindingsQuery) -> Page[FindingView]:
    """Return a page of a job's findings: each patient, followed by its studies with their series. Raises BadCursor."""
    rows = _matching(select(Finding, Patient, Study, Series), job, query)
    if query.cursor is not None:
        (after,) = paging.decode(query.cursor, int)
        rows = rows.where(Finding.ordinal > after)
    found = s.execute(rows.order_by(Finding.ordinal).limit(query.limit + 1)).all()
    shown = found[: query.limit]
    next_cursor = paging.encode(shown[-1][0].ordinal) if len(found) > query.limit else None
    names = upload_names(s, job, Study.patient_id.in_({finding.patient_id for finding, *_ in shown}))
    return Page([_view(names, *row) for row in shown], next_cursor)


def count_findings(s: Session, job: Job, query: FindingsQuery) -> int:
    """Return how many findings match on all pages together."""
    return s.scalar(_matching(select(func.count(Finding.id)), job, query)) or 0


def count_verdicts(s: Session, job: Job) -> dict[str, dict[str, int]]:
    """Count the findings of a job by level and verdict. `none`: findings without a verdict."""
    counts: dict[str, dict[str, int]] = {}
    columns = (Finding.level, Finding.verdict)
    for level, verdict, count in s.execute(
        select(*columns, func.count()).where(Finding.job_id == job.id).group_by(*columns)
    ):
        counts.setdefault(level, {})[verdict or NO_VERDICT] = count
    return counts


def study_numbers(s: Session, job: Job, study_ids: Iterable[int]) -> dict[int, int]:
    """Return the numbers of these studies of a job, by id. The studies of a patient are numbered from 1, in order."""
    number = func.row_number().over(partition_by=Finding.patient_id, order_by=Finding.ordinal)
    of_job = (Finding.job_id == job.id, Finding.level == Level.STUDY)
    numbered = select(Finding.study_id, number.label("number")).where(*of_job).subquery()
    query = select(numbered.c.study_id, numbered.c.number).where(numbered.c.study_id.in_(set(study_ids)))
    return dict(s.execute(query).all())


def count_within(s: Session, job: Job, patients: Iterable[int]) -> dict[tuple[int, str], int]:
    """Count the findings of these patients of a job, by patient and level. `patients`: their numbers within the job."""
    columns = (Patient.ordinal, Finding.level)
    query = select(*columns, func.count()).join(Patient, Patient.id == Finding.patient_id)
    query = query.where(Finding.job_id == job.id, Patient.ordinal.in_(set(patients))).group_by(*columns)
    return {(patient, level): count for patient, level, count in s.execute(query)}


def iter_findings(job: Job) -> Iterator[FindingView]:
    """Yield all findings of a job in order. Use many short reads, so that a slow client never blocks the database.

    Raises FindingsReplaced if the job is opened again, ends or is deleted meanwhile.
    """
    query: FindingsQuery | None = FindingsQuery(limit=MAX_ROWS)
    while query is not None:
        with read_scope() as s:
            page = findings_page(s, job, query)
            present = select(Job.retried_at, Job.finished_at).where(Job.id == job.id, Job.deleted_at.is_(None))
            if s.execute(present).first() != (job.retried_at, job.finished_at):
                raise FindingsReplaced(f"the job {job.id} was retried, has ended or was deleted meanwhile")
        yield from page.items
        query = query.model_copy(update={"cursor": page.next_cursor}) if page.next_cursor else None


def _matching(columns: Any, job: Job, query: FindingsQuery) -> Select[Any]:
    rows: Select[Any] = (
        columns.select_from(Finding)
        .join(Patient, Patient.id == Finding.patient_id)
        .outerjoin(Study, Study.id == Finding.study_id)
        .outerjoin(Series, Series.id == Finding.series_id)
        .where(Finding.job_id == job.id)
    )
    if query.level is not None:
        rows = rows.where(Finding.level == query.level)
    if query.verdict is not None:
        none = query.verdict == NO_VERDICT
        rows = rows.where(Finding.verdict.is_(None) if none else Finding.verdict == query.verdict)
    if query.patient is not None:
        rows = rows.where(Patient.ordinal == query.patient)
    if query.find:
        rows = rows.where(Series.label.icontains(query.find.replace("\0", "\ufffd"), autoescape=True))
    return rows


def _view(
    names: UploadNames, finding: Finding, patient: Patient, study: Study | None, series: Series | None
) -> FindingView:
    same = ("level", "study_id", "series_id", "verdict", "reason", "score", "threshold", "low", "high", "rule")
    more = ("rule_version", "k", "used", "ood", "left_out")
    unit = finding.level, finding.series_id or finding.study_id or finding.patient_id
    return FindingView(
        finding_id=finding.id,
        patient=patient.ordinal,
        patient_known=patient.is_known,
        study_uid=stated_uid(study.uid) if study else None,
        series_uid=stated_uid(series.uid) if series else None,
        series=series.label if series else None,
        uploads=names[unit],
        notes=series.notes if series and finding.level == Level.SERIES else [],
        **{name: getattr(finding, name) for name in (*same, *more)},
    )
