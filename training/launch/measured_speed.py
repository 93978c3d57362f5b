"""Finds the speed of the last training run, for the estimate of the next one."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Epoch, TrainingRun
from db.training.runs import epochs_of
from training.config import Stage
from training.launch.estimate import whole_speed


def measured_speed(s: Session) -> float | None:
    """Return the slices/s of a whole training step at 224² in the last run that shows it, or None if there is none.

    The stage in which most layers learned counts. The steps of a head alone are too short for a measurement, so a run
    that trained only its head does not count.
    """
    trained = select(Epoch.run_id).where(Epoch.run_id == TrainingRun.id).exists()
    newest = select(TrainingRun.id, TrainingRun.config).where(trained).order_by(TrainingRun.id.desc())
    speeds = (_speed_of(config, epochs_of(s, run_id)) for run_id, config in s.execute(newest))
    return next((speed for speed in speeds if speed is not None), None)


def _speed_of(config: dict[str, Any], epochs: Sequence[Epoch]) -> float | None:
    speeds: dict[int, list[float]] = {}
    stages: dict[int, Stage] = {}
    for epoch in epochs:
        number = epoch.stage
        try:
            stages[number] = Stage.model_validate(config["stages"][number])
        except (KeyError, IndexError, ValidationError):  # the run is of an older version
            return None
        if stages[number].unfreeze and (rate := epoch.metrics.get("rate")):
            speeds.setdefault(number, []).append(whole_speed(stages[number], rate))
    if not speeds:
        return None
    return median(speeds[max(speeds, key=lambda number: (whole_speed(stages[number], 1), number))])
