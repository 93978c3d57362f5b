"""Fills the findings part of a job's page: with series while the job runs, then with patients and their findings."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from db import paging
from db.findings.ribbons import ribbons
from db.findings.views import (
    FindingsQuery,
    FindingView,
    VerdictName,
    count_findings,
    count_verdicts,
    count_within,
    findings_page,
    study_numbers,
)
from db.ledger.series import SeriesQuery, series_page
from db.ledger.tally import tallies_of, thresholds_of
from db.models import OPEN_JOB, Job, Level
from web.views.findings.ribbon import TITLES, Drawing, draw

PAGE_ROWS = 60


class PartQuery(BaseModel):
    """Which findings of a job the page shows.

    `after`: show the findings after this place. `page`: the page of series, while the job is open.
    """

    model_config = ConfigDict(frozen=True)

    find: str = Field(default="", max_length=200)
    page: int = Field(default=1, ge=1, le=1_000_000)
    verdict: VerdictName | None = None
    patient: int | None = Field(default=None, ge=1, le=2**31 - 1)
    after: int | None = Field(default=None, ge=0, le=2**31 - 1)

    @property
    def wanted(self) -> FindingsQuery:
        """Return the query.

        It asks for series if `find` is set, or else for patients if `verdict` is set. Otherwise it asks for both.
        """
        level = Level.SERIES if self.find else Level.PATIENT if self.verdict else None
        cursor = None if self.after is None else paging.encode(self.after)
        return FindingsQuery(
            level=level.value if level else None,
            verdict=self.verdict,
            patient=self.patient,
            find=self.find,
            cursor=cursor,
            limit=PAGE_ROWS,
        )

    @property
    def kept(self) -> dict[str, Any]:
        """Return the parameters of an address that shows the first page of these findings."""
        return self.model_dump(exclude_defaults=True, exclude={"page", "after"})


@dataclass
class StudyBlock:
    """The findings of one study on a page.

    `number`: its number within the patient, from 1. `own`: the study's own finding, or None if it is not on this page.
    """

    study_id: int
    number: int
    own: FindingView | None = None
    series: list[FindingView] = field(default_factory=list)


@dataclass
class PatientBlock:
    """The findings of one patient on a page.

    `has_studies`, `has_one_series`: whether the patient has several studies, and only one series, on all pages
    together. `own`: the patient's own finding, or None if it is not on this page.
    """

    number: int
    is_known: bool
    has_studies: bool
    has_one_series: bool
    own: FindingView | None = None
    studies: list[StudyBlock] = field(default_factory=list)


def findings_part(s: Session, job: Job, query: PartQuery) -> dict[str, Any]:
    """Return the values for the part. While a job is open, it has no findings, so show its series."""
    shown: dict[str, Any] = {"find": query.find, "findings_query": query, "findings": None, "series": None}
    if job.state in OPEN_JOB:
        return shown | {"series": series_page(s, job, SeriesQuery(find=query.find, page=query.page))}
    page = findings_page(s, job, query.wanted)
    verdicts = count_verdicts(s, job)
    return shown | {
        "findings": page.items,
        "blocks": _blocks(s, job, page.items),
        "drawings": _drawings(s, job, page.items),
        "kinds": TITLES,
        "next_after": None if page.next_cursor is None else paging.decode(page.next_cursor, int)[0],
        "findings_total": count_findings(s, job, query.wanted),
        "verdicts": verdicts.get(Level.PATIENT, {}),
        "counts_of": {level: sum(counts.values()) for level, counts in verdicts.items()},
        "rule": page.items[0] if page.items else None,
    }


def _blocks(s: Session, job: Job, rows: list[FindingView]) -> list[PatientBlock]:
    numbers = study_numbers(s, job, [row.study_id for row in rows if row.study_id is not None])
    counts = count_within(s, job, [row.patient for row in rows])
    blocks: list[PatientBlock] = []
    for row in rows:
        if not blocks or blocks[-1].number != row.patient:
            studies, series = (counts.get((row.patient, level), 0) for level in (Level.STUDY, Level.SERIES))
            blocks.append(PatientBlock(row.patient, row.patient_known, studies > 1, series == 1))
        if row.study_id is None:
            blocks[-1].own = row
        else:
            _add_to_study(blocks[-1].studies, row, row.study_id, numbers[row.study_id])
    return blocks


def _add_to_study(studies: list[StudyBlock], row: FindingView, study_id: int, number: int) -> None:
    if not studies or studies[-1].study_id != study_id:
        studies.append(StudyBlock(study_id, number))
    if row.series_id is None:
        studies[-1].own = row
    else:
        studies[-1].series.append(row)


def _drawings(s: Session, job: Job, rows: list[FindingView]) -> dict[int, Drawing]:
    drawn = ribbons(s, job, [row.series_id for row in rows if row.series_id is not None])
    thresholds = set(thresholds_of(job, tallies_of(s, [job])[job.id]).values())
    threshold = thresholds.pop() if len(thresholds) == 1 else None
    return {series_id: draw(ribbon, threshold) for series_id, ribbon in drawn.items()}
