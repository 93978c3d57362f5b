"""The shapes of jobs, results and reviews in the API."""

from typing import Literal

from pydantic import BaseModel, Field

from db import ClassName
from web.schemas.common import Cursor, Out, RowId, Timestamp

JobStateName = Literal["queued", "running", "finished", "cancelled", "failed"]
SliceState = Literal["open", "predicted", "rejected", "quarantined", "cancelled"]
SortName = Literal["position", "name", "probability", "-probability"]


class JobListQuery(BaseModel):
    """Which jobs, and which page of them."""

    state: JobStateName | None = None
    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200)


class ResultsQuery(BaseModel):
    """Which slices of a job, in which order, and which page of them."""

    state: SliceState | None = None
    label: ClassName | None = None
    reason: str | None = Field(None, pattern=r"^[a-z0-9_-]{1,64}$", description="A rejection's reason code.")
    series: RowId | None = Field(None, description="A `series_id` of the job's series.")
    ood: bool | None = Field(None, description="Only slices that are out of distribution, or only those that are not.")
    sort: SortName = "position"
    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(100, ge=1, le=1000)


class ImageQuery(BaseModel):
    """How to draw a slice."""

    heat: Literal["0", "1"] = Field("0", description="1: with the heat map over it.")
    size: int = Field(224, ge=32, le=1024, description="Pixels of each side.")


class Counts(Out):
    """Slices by outcome: received = predicted + rejected + quarantined + cancelled + open."""

    received: int
    predicted: int
    positive: int
    rejected: int
    quarantined: int
    cancelled: int
    open: int


class Stages(Out):
    """How far a job is: slices announced, read and done; files received and unpacked."""

    total: int
    read: int
    done: int
    uploads: int
    unpacked: int


class JobLinks(Out):
    """Where to go on from a job."""

    self: str
    results: str
    csv: str
    json_: str = Field(alias="json")
    page: str


class JobOut(Out):
    """A job: one submission."""

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
        description="The job has ended and none of its slices has a prediction, say because every file was rejected. "
        "Do not take such a job for a success."
    )
    cancelling: bool
    warning: str | None = Field(
        description="Why an open job waits: no worker has an engine that proved itself for its model version. An admin "
        "finds more on the page of workers."
    )
    model_version: str
    model_note: str
    recipe: str
    priority: int
    counts: Counts
    ood: int | None = Field(
        description="Predicted slices that are out of distribution; null if the model does not measure it."
    )
    stages: Stages
    rejections: dict[str, int] = Field(description="Rejected slices by reason code.")
    rate: float = Field(description="Slices per second.")
    eta_seconds: float | None
    created_at: Timestamp
    started_at: Timestamp | None
    first_result_at: Timestamp | None
    finished_at: Timestamp | None
    error: str | None
    notice: str
    links: JobLinks


class JobPage(Out):
    """Some jobs, newest first."""

    items: list[JobOut]
    next_cursor: str | None


class ExportedResult(Out):
    """One slice and its one outcome."""

    slice_id: int
    name: str
    frame: int
    series: str | None
    state: SliceState
    reason: str | None
    detail: str | None
    label: ClassName | None
    probability: float | None
    distance: float | None = Field(description="From the slices that the model was trained on, where it tells.")
    ood: bool | None = Field(description="Whether that is too far: the model knows no slices like it.")
    model_version: str
    recipe: str
    sha256: str | None
    format: str | None
    width: int | None
    height: int | None


class ResultOut(ExportedResult):
    """One slice and its one outcome, and whether it can be shown."""

    has_image: bool
    has_heat: bool


class ResultPage(Out):
    """Some slices of a job."""

    items: list[ResultOut]
    next_cursor: str | None
    notice: str


class ExportOut(Out):
    """All results of a job."""

    notice: str
    job: JobOut
    results: list[ExportedResult]


class RetryOut(Out):
    """How many slices and files were put back, and the job as it is now."""

    retried: int
    job: JobOut


class ReviewIn(BaseModel):
    """What a reader says that a slice shows."""

    label: ClassName


class ReviewOut(Out):
    """Who said what of a slice, and when."""

    user: str
    label: ClassName
    created_at: Timestamp


class ReviewList(Out):
    """What readers say of one slice, the newest first."""

    items: list[ReviewOut]
