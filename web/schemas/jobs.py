"""Schemas of jobs, results and reviews."""

from typing import Literal

from pydantic import Field

from db import ClassName
from db.datasets.reviews import ReviewView
from db.findings.views import FindingView
from db.ledger.job_view import JobView
from db.ledger.results import Result, ResultRow
from db.ledger.series import SeriesSummary
from db.ledger.views import JobStateName
from web.schemas.common import In, ListQuery, Out


class JobListQuery(ListQuery):
    """The jobs to list, and the page to return."""

    state: JobStateName | None = None
    idempotency_key: str | None = Field(
        None, pattern=r"^[!-~]{1,255}$", description="Only your own job that was submitted with this `Idempotency-Key`."
    )


class ImageQuery(In):
    """How to draw a slice."""

    heat: Literal["0", "1"] = Field("0", description="1: draw the heat map over the slice.")
    size: int = Field(224, ge=32, le=1024, description="Pixels of the longest side.")
    shape: Literal["square", "received"] = Field(
        "square", description="`square`: as the model saw it. `received`: with the aspect of the received picture."
    )


class JobLinks(Out):
    """Addresses of a job and its results."""

    self: str
    findings: str
    results: str
    csv: str
    json_: str = Field(alias="json")
    parquet: str
    series: str
    page: str


class JobOut(JobView):
    """A job: one submission."""

    links: JobLinks


class JobPage(Out):
    """Some jobs, newest first."""

    items: list[JobOut]
    next_cursor: str | None


class ResultPage(Out):
    """Some slices of a job."""

    items: list[ResultRow]
    next_cursor: str | None
    total: int | None = Field(
        description="How many slices match the filters, on all pages. Only the first page states it."
    )
    notice: str


class SeriesListOut(Out):
    """Some series of a job."""

    items: list[SeriesSummary]
    next_cursor: str | None
    notice: str


class RetryOut(Out):
    """How many slices and files a retry has queued again, and the present state of the job."""

    retried: int
    job: JobOut


class ReviewIn(In):
    """The label that a reader gives a slice."""

    label: ClassName


class ExportRow(Result):
    """One slice, its outcome, and the readers' labels, newest first."""

    reviews: list[ReviewView]


class FindingPage(Out):
    """Some findings of a job."""

    items: list[FindingView]
    next_cursor: str | None
    notice: str


class FindingsOut(Out):
    """All findings of a job."""

    notice: str
    job: JobOut
    findings: list[FindingView]


class ExportOut(Out):
    """All findings and results of a job."""

    notice: str
    job: JobOut
    findings: list[FindingView]
    series: list[SeriesSummary]
    results: list[ExportRow]


class ReviewList(Out):
    """The readers' labels of one slice, newest first."""

    items: list[ReviewView]
