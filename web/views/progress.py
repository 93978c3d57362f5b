"""Describes the progress of jobs and training runs: stages, segments of the bar, and sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from flask import Flask

from db.ledger.job_view import JobView
from db.models import JobState
from db.reasons import SET_APART
from db.storage import storage
from db.training.progress import FIT_SHARE
from db.training.runs import RunView
from web.views.filters import count, counted, duration, probability

MUCH_OOD = 0.1  # share of the predicted slices; even from a model's own source, 1 in 20 is flagged by chance

TITLES = {"positive": "COVID", "negative": "non-COVID"}
"""The names of those parts of a job's progress bar that are not named like their outcome."""

StageState = Literal["done", "active", "stopped", "waiting"]


@dataclass(frozen=True)
class Stage:
    """A step of a job or a run."""

    title: str
    text: str
    state: StageState


@dataclass(frozen=True)
class Segment:
    """A part of a job's progress bar for one outcome. Its start and width are percentages of all slices."""

    kind: str
    title: str
    amount: int
    start: float
    width: float


def install(app: Flask) -> None:
    """Make the functions of this module available to templates."""
    app.jinja_env.globals.update(segments=segments, milestone=milestone, has_much_ood=has_much_ood, by_rule=by_rule)
    app.jinja_env.globals.update(job_stages=job_stages, run_stages=run_stages, of_total=of_total, thresholds=thresholds)
    app.jinja_env.globals.update(is_short_of_disk=is_short_of_disk)


def is_short_of_disk() -> bool:
    """Return whether this machine has so little free disk that its workers claim nothing. False if it is not known."""
    try:
        return storage().is_short_of_disk()
    except OSError:
        return False


def job_stages(job: JobView) -> list[Stage]:
    """Return the four stages of a job: received, unpacked, predicted, ended."""
    stages, counts = job.stages, job.counts
    unpacked = 0 < stages.uploads == stages.unpacked
    unpacking = job.is_open and job.started_at is not None
    predicting = job.is_open and counts.predicted > 0
    left = counts.open + counts.cancelled
    predicted = not job.is_open and unpacked and not left and counts.predicted > 0
    return [
        Stage("Received", counted(stages.uploads, "file"), "done"),
        Stage(
            "Unpacking" if unpacking and not unpacked else "Unpacked",
            f"{count(stages.read)}{of_total(job)} read",
            _state(job, done=unpacked, active=unpacking),
        ),
        Stage(
            "Predicting" if predicting else "Predicted",
            counted(counts.predicted, "slice"),
            _state(job, done=predicted, active=predicting),
        ),
        _end(job),
    ]


def of_total(job: JobView) -> str:
    """Return " of" with the number of a job's slices, or "" while the number is not known."""
    return f" of {count(job.stages.total)}" if job.stages.total_known else ""


def _state(job: JobView, *, done: bool, active: bool) -> StageState:
    if done:
        return "done"
    if active:
        return "active"
    return "waiting" if job.is_open else "stopped"


def _end(job: JobView) -> Stage:
    bad_end = job.state in (JobState.CANCELLED, JobState.FAILED)
    title = job.state.capitalize() if bad_end else "Finished"
    if job.finished_at is None:
        return Stage(title, "stopping" if job.cancelling else "–", "waiting")
    took = "after a retry" if job.retried_at else duration((job.finished_at - job.created_at).total_seconds())
    return Stage(title, took, "stopped" if bad_end or job.nothing_predicted else "done")


def run_stages(run: RunView) -> list[Stage]:
    """Return the training stages of a run, and a last stage for its model version.

    Return [] before a worker has claimed the run. If training was stopped early, only the stages before the stop are
    done.
    """
    current = run.live.get("stage")
    if not isinstance(current, int):
        return []
    is_open, finished = run.state in ("queued", "running"), run.state == "finished"
    trained = finished or run.progress >= FIT_SHARE
    stages = []
    for number, stage in enumerate(run.config.get("stages", ())):
        text = counted(stage["epochs"], "epoch") + (f" at {stage['size']} px" if stage.get("size") else "")
        state: StageState = "waiting"
        if number < current or (trained and not run.stopped_early):
            state = "done"
        elif number == current:
            state = "active" if is_open and not run.stopped_early else "stopped"
        stages.append(Stage(stage["name"], text, state))
    made: StageState = "waiting"
    if trained:
        made = "done" if finished else "active" if is_open else "stopped"
    return [*stages, Stage("Model version", "measured, exported", made)]


def has_much_ood(job: JobView) -> bool:
    """Return whether so many slices of a job are out of distribution that its page must say so."""
    predicted = job.counts.predicted
    return bool(job.ood and predicted and job.ood >= MUCH_OOD * predicted)


def thresholds(job: JobView) -> str:
    """Write the threshold of a job. If its engines have several, write each with its engine.

    Before the first prediction, the engine is not known. In that case write the threshold of float32.
    """
    of_engines = job.thresholds or {"": job.threshold}
    if len(set(of_engines.values())) == 1:
        return probability(next(iter(of_engines.values())))
    return " or ".join(f"{probability(least)} ({engine})" for engine, least in sorted(of_engines.items()))


def by_rule(job: JobView) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many slices each rule of SET_APART rejected, and how many were rejected for other reasons."""
    apart = {code: number for code, number in job.rejections.items() if code in SET_APART}
    return apart, {code: number for code, number in job.rejections.items() if code not in SET_APART}


def segments(job: JobView, *, blind: bool = False) -> list[Segment]:
    """Return the parts of a job's progress bar, without empty ones. `blind`: do not tell the classes apart."""
    return list(_segments(job, blind))


def _segments(job: JobView, blind: bool) -> Iterator[Segment]:
    counts, total = job.counts, max(job.stages.total, 1)
    classes = {"positive": counts.positive, "negative": counts.predicted - counts.positive}
    amounts = {
        **({"predicted": counts.predicted} if blind else classes),
        "rejected": counts.rejected,
        "quarantined": counts.quarantined,
        "cancelled": counts.cancelled,
    }
    start = 0.0
    for kind, amount in amounts.items():
        width = 100 * amount / total
        if amount:
            yield Segment(kind, TITLES.get(kind, kind.capitalize()), amount, round(start, 3), round(width, 3))
        start += width


def milestone(job: JobView) -> str:
    """Return the progress in words, for screen readers. It changes only at each tenth, so that it is spoken seldom."""
    total = job.stages.total if job.stages.total_known else 0
    tenth = 10 * (10 * job.settled // total) if job.is_open and total else 0
    return f"{tenth} percent of {counted(total, 'slice')} done." if tenth else f"The job is {job.state_text}."
