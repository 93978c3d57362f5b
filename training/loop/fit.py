"""Training, from top to bottom: stage by stage; it can be watched, stopped and taken up again."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config import Config
from training.data.slices import Data
from training.loop.stage import Fitting
from training.loop.watcher import Checkpoint, EpochRecord, Watcher
from training.network.backend import memory_errors


@dataclass
class FitResult:
    """How training went: all epochs, in order."""

    history: list[EpochRecord] = field(default_factory=list)


@memory_errors()
def fit(
    network: Any,
    config: Config,
    data: Data,
    *,
    seed: int,
    folder: Path,
    watcher: Watcher | None = None,
    resume: Checkpoint | None = None,
    cached: bool = True,
) -> FitResult:
    """Train `network` (uint8[n,224,224,1] to logit and cam) in place; each stage leaves its best weights, or its last.

    `folder` takes the features of frozen layers for as long as a stage lasts. `cached=False` computes frozen layers
    anew at each step, on the same augmented copies.

    Raises Diverged, NoRoom, MemoryError, and whatever the watcher raises.
    """
    watcher = watcher or Watcher()
    outcome = FitResult(list(resume.history) if resume else [])
    for index in range(resume.stage if resume else 0, len(config.stages)):
        at = resume if resume and resume.stage == index else None
        if at:
            network.set_weights(at.network)
        with Fitting(network, config, index, data, seed, folder, watcher, outcome.history, cached) as fitting:
            fitting.run(at)
        if watcher.stopped():
            break
    return outcome
