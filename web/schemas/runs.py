"""Schemas of training runs."""

from typing import Annotated, Any, Literal

from pydantic import Field

from db import NAME
from db.training.runs import RunView
from training.config import PRESETS
from web.schemas.common import AsGiven, In, ModelLabel, Named, Out, Seed, Sha256

LeakName = Literal["identical-slices", "near-identical-slices", "shared-groups", "conflicting-labels", "seen-by-parent"]
Setting = Annotated[
    str, Field(max_length=2000, pattern=r"^[a-z][a-z0-9_.-]*=[!-~ ]+$", examples=["stages.head.epochs=3"])
]


class RunIn(In):
    """What to train."""

    dataset: Named = Field(description="`name/number`, a bare name (its newest), or an id.")
    preset: Annotated[str, Field(json_schema_extra={"enum": list(PRESETS)})] = "default"
    seed: Seed = 7
    name: str = Field(
        "",
        json_schema_extra={"pattern": rf"^({NAME.pattern})?$"},
        description="The name of the model version that the run makes. Default: the dataset's name.",
    )
    settings: list[Setting] = Field(
        default_factory=list, max_length=100, description="As `key=value`. Each setting replaces the one of the preset."
    )
    from_model: ModelLabel | None = Field(
        None,
        description="`name/number` of the version that the run starts from. Slices that it was trained on stay in"
        " train. Slices that it was tested on stay in test.",
    )
    from_weights: Sha256 | None = Field(
        None, description="The `sha256` that `POST /runs/weights` gave for the file that the run starts from."
    )
    allow_leaks: list[LeakName] = Field(default_factory=list, max_length=10)
    groups_as_given: AsGiven = False


class WeightsOut(Out):
    """A file of initial weights that was received."""

    sha256: Sha256


class EstimateOut(Out):
    """An estimate of the time and disk that a run would take if it does not stop early."""

    dataset: str
    slices: dict[str, int] = Field(description="How many slices each part of the split has.")
    estimate: dict[str, float] = Field(
        description="`seconds`: at the speed of the last run. Without one, at the speed of two cores with"
        " bfloat16. `disk`: the bytes on disk that the run needs."
    )
    notes: list[str] = Field(
        description="Why metrics may be too good: training slices of the starting version are deleted or not here."
    )


class RunOut(RunView):
    """A training run."""

    links: dict[str, str]


class RunPage(Out):
    """Some training runs, newest first."""

    items: list[RunOut]
    next_cursor: str | None


class EpochOut(Out):
    """The metrics of one epoch. Stages and epochs are counted from 0."""

    stage: int
    epoch: int
    metrics: dict[str, Any] = Field(description="loss, accuracy, val_loss, val_accuracy, val_auc, rate.")
    seconds: float


class EpochList(Out):
    """All epochs of a run, in order, and the names of its stages."""

    items: list[EpochOut]
    stages: list[str]
    next_cursor: None = None
