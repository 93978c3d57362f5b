"""The records of a training run's progress: its epochs, its present position, and its checkpoint."""

from dataclasses import dataclass

from pydantic import Field

from db.models.kept import Kept

FIT_SHARE = 0.9  # share of training in a run's progress; evaluation and export get the rest


@dataclass(frozen=True)
class EpochRecord:
    """The result of one epoch. `metrics`: loss, accuracy, val_loss, val_accuracy, val_auc, rate (slices/s)."""

    stage: int
    epoch: int
    metrics: dict[str, float]
    seconds: float


class LiveProgress(Kept):
    """The present position of training. Stages, epochs and steps are counted from 0.

    `rate`: slices/s. `eta_seconds`: the time to the end of the stage.
    """

    stage: int
    stages: int
    stage_name: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    rate: float | None
    eta_seconds: float | None


class StoredCheckpoint(Kept):
    """A checkpoint in storage, written after an epoch.

    `best_epoch`: the best epoch of its stage. `loss_before`: the validation loss that the stage must improve on.
    `network_stage`: the stage that left the weights with which this stage began, or None for the initial weights.
    `files`: SHA-256 by name.
    """

    stage: int
    epoch: int
    best_epoch: int = -1
    loss_before: float | None = None
    network_stage: int | None = None
    history: list[EpochRecord] = Field(default_factory=list)
    files: dict[str, str] = Field(default_factory=dict)
