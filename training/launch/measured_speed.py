"""Finds the speed of the last training run, for the estimate of the next one."""

from statistics import median

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db.models import Epoch, TrainingRun
from training.config import Stage
from training.launch.estimate import whole_speed


def measured_speed(s: Session) -> float | None:
    """Return the slices/s of a whole training step at 224² in the last run that trained, or None if there is none.

    The stage in which most layers learned counts, because the steps of a head alone are too short for a measurement.
    """
    newest = select(func.max(Epoch.run_id)).scalar_subquery()
    query = (
        select(TrainingRun.config, Epoch.stage, Epoch.metrics)
        .join_from(Epoch, TrainingRun)
        .where(TrainingRun.id == newest)
    )
    speeds: dict[int, list[float]] = {}
    stages: dict[int, Stage] = {}
    for config, number, metrics in s.execute(query):
        try:
            stages[number] = Stage.model_validate(config["stages"][number])
        except (KeyError, IndexError, ValidationError):  # the run is of an older version
            return None
        if rate := metrics.get("rate"):
            speeds.setdefault(number, []).append(whole_speed(stages[number], rate))
    if not speeds:
        return None
    return median(speeds[max(speeds, key=lambda number: (whole_speed(stages[number], 1), number))])
