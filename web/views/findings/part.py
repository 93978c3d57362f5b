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
    findings_page,
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
        """Return the query: for series if `find` is set, else for patients if `verdict` is set, else for both."""
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
class PatientBlock:
    """The findings of one patient on a page. `own`: the patient's own finding, or None if it is on an earlier page."""

    number: int
    is_known: bool
    own: FindingView | None = None
    studies: list[FindingView] = field(default_factory=list)
    series: list[FindingView] = field(default_factory=list)

    def series_of(self, study: FindingView) -> list[FindingView]:
        """Return the series of a study."""
        return [one for one in self.series if one.study_id == study.study_id]


def findings_part(s: Session, job: Job, query: PartQuery) -> dict[str, Any]:
    """Return the values for the part. While a job is open, it has no findings, so show its series."""
    shown: dict[str, Any] = {"find": query.find, "findings_query": query, "findings": None, "series": None}
    if job.state in OPEN_JOB:
        return shown | {"series": series_page(s, job, SeriesQuery(find=query.find, page=query.page))}
    page = findings_page(s, job, query.wanted)
    verdicts = count_verdicts(s, job)
    return shown | {
        "findings": page.items,
        "blocks": _blocks(page.items),
        "drawings": _drawings(s, job, page.items),
        "kinds": TITLES,
        "next_after": None if page.next_cursor is None else paging.decode(page.next_cursor, int)[0],
        "findings_total": count_findings(s, job, query.wanted),
        "verdicts": verdicts.get(Level.PATIENT, {}),
        "counts_of": {level: sum(counts.values()) for level, counts in verdicts.items()},
        "rule": page.items[0] if page.items else None,
    }


def _blocks(rows: list[FindingView]) -> list[PatientBlock]:
    blocks: list[PatientBlock] = []
    for row in rows:
        if not blocks or blocks[-1].number != row.patient:
            blocks.append(PatientBlock(row.patient, row.patient_known))
        match row.level:
            case "patient":
                blocks[-1].own = row
            case "study":
                blocks[-1].studies.append(row)
            case "series":
                blocks[-1].series.append(row)
    return blocks


def _drawings(s: Session, job: Job, rows: list[FindingView]) -> dict[int, Drawing]:
    series = {row.series_id: row for row in rows if row.series_id is not None}
    drawn = ribbons(s, job, list(series))
    thresholds = set(thresholds_of(job, tallies_of(s, [job])[job.id]).values())
    threshold = thresholds.pop() if len(thresholds) == 1 else None
    return {
        series_id: draw(ribbon, threshold, is_scan=series[series_id].series_uid is not None)
        for series_id, ribbon in drawn.items()
    }
