"""The shapes of datasets, training runs and model versions in the API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from db.engine_proofs import State as ServingState
from db.manifest import NAME
from db.splits import MAX_SEED
from training.config import PRESETS
from web.api.schemas import Cursor, Out, Timestamp

DatasetState = Literal["queued", "building", "ready", "failed"]
RunState = Literal["queued", "running", "finished", "failed", "cancelled"]
CheckState = Literal["queued", "running", "finished", "failed"]
LeakName = Literal["identical-slices", "near-identical-slices", "shared-groups", "conflicting-labels", "seen-by-parent"]
Named = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._/-]+$")]
ModelLabel = Annotated[str, Field(pattern=rf"^{NAME.pattern}/[0-9]{{1,9}}$")]
Setting = Annotated[
    str, Field(max_length=200, pattern=r"^[a-z][a-z0-9_.-]*=[!-~ ]+$", examples=["stages.head.epochs=3"])
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Reason = Annotated[str, Field(max_length=500, description="Kept with the promotion.")]
AsGiven = Annotated[
    bool,
    Field(description="Draw each group alone; else groups that share near-identical slices stay in one part."),
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class ListQuery(BaseModel):
    """Which page of a list."""

    cursor: Cursor | None = Field(None, description="`next_cursor` of the page before.")
    limit: int = Field(50, ge=1, le=200)


class SplitOut(Out):
    """A split into train, validation and test: slices of each class and groups by part, and what connects two parts."""

    id: int
    rule: str
    seed: int
    parts: dict[str, dict[str, int]]
    leaks: dict[str, Any] = Field(description="By name: how many, and examples. Empty is clean.")


class DatasetOut(Out):
    """A dataset: an immutable list of labelled slices."""

    id: int
    name: str = Field(description="`name/number`.")
    state: DatasetState
    progress: float
    size: int
    counts: dict[str, int]
    groups: int
    sha256: str | None
    report: dict[str, Any]
    error: str | None
    created_at: Timestamp
    created_by: str | None
    splits: list[SplitOut]
    links: dict[str, str]


class DatasetPage(Out):
    """Some datasets, newest first; without their reports."""

    items: list[DatasetOut]
    next_cursor: str | None


class SplitIn(BaseModel):
    """How to draw a split."""

    seed: Seed = 7
    groups_as_given: AsGiven = False


class RunIn(BaseModel):
    """What to train."""

    dataset: Named = Field(description="`name/number`, a bare name (its newest), or an id.")
    preset: Annotated[str, Field(json_schema_extra={"enum": list(PRESETS)})] = "default"
    seed: Seed = 7
    name: str = Field(
        "",
        json_schema_extra={"pattern": rf"^({NAME.pattern})?$"},
        description="Of the model version that comes of it; the dataset's unless given.",
    )
    settings: list[Setting] = Field(default_factory=list, max_length=100, description="`key=value`, over the preset.")
    from_model: ModelLabel | None = Field(
        None,
        description="`name/number` of the version that the run starts from. What that was trained on stays in train,"
        " and what it was tested on in test.",
    )
    from_weights: Sha256 | None = Field(
        None, description="The file of weights that the run starts from, by what `POST /runs/weights` gave."
    )
    allow_leaks: list[LeakName] = Field(default_factory=list, max_length=10)
    groups_as_given: AsGiven = False


class WeightsOut(Out):
    """A file of initial weights that was received."""

    sha256: Sha256


class EstimateOut(Out):
    """What a run would take, at most: no early stop is foreseen."""

    dataset: str
    slices: dict[str, int] = Field(description="By part of the split.")
    estimate: dict[str, float] = Field(description="`seconds` on two cores without a GPU, `disk` in bytes meanwhile.")


class RunOut(Out):
    """A training run."""

    id: int
    name: str
    preset: str
    state: RunState
    stage: str
    progress: float
    message: str
    live: dict[str, Any] = Field(description="Where it stands: stage, epoch, step, loss, rate, eta_seconds.")
    dataset: str | None
    seed: int
    config: dict[str, Any]
    allowed_leaks: list[str]
    environment: dict[str, Any]
    error: str | None
    cancelling: bool
    stopping: bool
    from_version: str | None
    model_version: str | None
    created_by: str | None
    created_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    links: dict[str, str]


class RunPage(Out):
    """Some training runs, newest first."""

    items: list[RunOut]
    next_cursor: str | None


class EpochOut(Out):
    """What one epoch came to; stage and epoch count from 0."""

    stage: int
    epoch: int
    metrics: dict[str, Any] = Field(description="loss, accuracy, val_loss, val_accuracy, val_auc, rate; as measured.")
    seconds: float


class EpochList(Out):
    """All epochs of a run, in order, and the names of its stages."""

    items: list[EpochOut]
    stages: list[str]
    next_cursor: None = None


class CalibrationOut(Out):
    """What turns an engine's scores into answers."""

    temperature: float
    threshold: float


class ModelOut(Out):
    """A model version."""

    id: int
    name: str
    number: int
    label: str
    note: str
    recipe: str
    threshold: float
    temperature: float
    calibration: dict[str, CalibrationOut] = Field(description="Of the engines that have their own, by name.")
    metrics: dict[str, Any]
    parity: dict[str, Any]
    dataset_hash: str | None
    created_at: Timestamp
    champion: bool


class ModelList(Out):
    """All model versions, newest first."""

    items: list[ModelOut]
    next_cursor: None = None


class CheckOut(Out):
    """An evaluation of a model version on a dataset; of a whole dataset it is a site check, with its verdict."""

    id: int
    state: CheckState
    progress: float
    model_version: str
    dataset: str
    part: str | None
    result: dict[str, Any]
    error: str | None
    created_at: Timestamp
    finished_at: Timestamp | None


class PromotionOut(Out):
    """One time that a version became the champion. `verdict`: the gate's, or `rollback`."""

    at: Timestamp
    by: str
    reason: str
    verdict: str
    overridden: bool
    champion: str | None = Field(description="The champion whose place it took.")
    figures: dict[str, Any] = Field(description="The gate's comparison with that champion.")


class ModelDetail(ModelOut):
    """A model version with its making, its files, and how it stands beside the champion."""

    ood: dict[str, Any]
    facts: dict[str, Any]
    files: dict[str, str] = Field(description="SHA-256 by file name.")
    used_by: int = Field(description="Jobs that were predicted with it.")
    checks: list[CheckOut]
    gate: dict[str, Any] = Field(description="The promotion gate's verdict, reasons, notes and figures.")
    promotions: list[PromotionOut] = Field(description="Newest first.")
    links: dict[str, str]


class PromoteIn(BaseModel):
    """Why a version becomes the champion. `force`: though the gate refuses; then `reason` must not be empty."""

    reason: Reason = ""
    force: bool = False


class RollbackIn(BaseModel):
    """Why the champion before the present one comes back; `reason` must not be empty."""

    reason: Reason = ""
    champion: ModelLabel | None = Field(default=None, description="`name/number` of the champion that is rolled back.")


class CheckIn(BaseModel):
    """The labelled slices that a model version is checked on."""

    dataset: Named = Field(description="`name/number`, a bare name (its newest), or an id.")


class CompareIn(BaseModel):
    """What a model version is compared with, and on what."""

    with_model: ModelLabel = Field(description="`name/number` of the other version.")
    dataset: Named | None = Field(None, description="The whole of it; else the test part of the first version's split.")


class ComparisonOut(Out):
    """Two model versions on the same slices; figures and notes once it is finished."""

    model_version: str
    with_model: str
    dataset: str
    part: str | None
    state: CheckState
    slices: int | None
    groups: int | None
    figures: dict[str, Any] = Field(
        description="By name: `candidate` is the first version, `champion` the other; `difference`, `low`, `high`."
    )
    notes: list[str] = Field(description="Why figures may come out too good: who was trained on some of these slices.")
    error: str | None


class ProofOut(Out):
    """What the proof of an engine found on one machine. `largest_difference`: of a calibrated probability."""

    engine: str
    precision: str
    passed: bool
    largest_difference: float | None
    seconds: float
    text: str


class WorkerOut(Out):
    """Which engine serves a model version on one machine, by the newest load there."""

    host: str
    processor: str
    model_version: str
    in_use: bool = Field(description="Whether the version is the champion, or open jobs are predicted with it.")
    state: ServingState = Field(
        description="`used`: the quickest engine serves. `fallen back`: a slower one does. `refused`: none does, and"
        " slices wait for another worker."
    )
    engine: str | None = Field(description="The engine that serves.")
    message: str
    advice: str = Field(description="What to do about it; empty if the quickest engine serves.")
    checked_at: Timestamp
    proofs: list[ProofOut] = Field(description="The quickest engine first.")
    links: dict[str, str]


class WorkerList(Out):
    """What serves on every machine, by host."""

    items: list[WorkerOut]
    next_cursor: None = None
