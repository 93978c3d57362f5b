"""What a training run tells whoever watches it, and what it takes to go on after an interruption."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """Where training stands: stage, epoch and step from 0, of how many; the epoch's loss so far, images/s."""

    stage: int
    stages: int
    stage_name: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float | None
    rate: float | None
    message: str = ""


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch came to. `metrics`: loss, accuracy, val_loss, val_accuracy, val_auc, rate (images/s)."""

    stage: int
    epoch: int
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """Enough to go on after an epoch as if nothing had happened. `arrays` by name; `network` as the stage began."""

    stage: int
    epoch: int
    history: list[EpochRecord]
    best_epoch: int
    arrays: dict[str, Arrays]
    network: Arrays

    def facts(self) -> dict[str, Any]:
        """All but the arrays, as JSON."""
        history = [asdict(record) for record in self.history]
        return {"stage": self.stage, "epoch": self.epoch, "best_epoch": self.best_epoch, "history": history}


class Watcher:
    """Whoever watches a run; this one looks away. Any method may raise to end the run at once."""

    def step(self, at: Step) -> None:
        """After each step."""

    def alive(self) -> None:
        """Now and then while nothing else is told: the work goes on."""

    def epoch(self, record: EpochRecord) -> None:
        """After each epoch."""

    def checkpoint(self, make: Callable[[], Checkpoint], *, ends_stage: bool = False) -> None:
        """After each epoch: `make()` gives its checkpoint, which costs a copy of the weights."""

    def stopped(self) -> bool:
        """Whether to end training now and keep what it has come to: see `config.Stage.keep`."""
        return False
