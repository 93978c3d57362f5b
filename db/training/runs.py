"""Training runs: launches, claims, reports, ends and finds them, and takes requests to end them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema
from sqlalchemy import case, delete, select, tuple_, update
from sqlalchemy.orm import Session

from db import NAME, broker
from db.access.audit import Action, record
from db.broker import Queue
from db.clock import from_now
from db.database import lock_row
from db.datasets.datasets import lock_kept
from db.ledger import leases
from db.ledger.leases import Claim
from db.ledger.views import Moment, View
from db.models import OPEN_WORK, Dataset, Epoch, ModelVersion, Split, TrainingRun, User, Work
from db.training.leaks import CONFLICTING, SEEN, Leak, about_conflicts
from db.training.lineage import deleted_sources, find_seen, trained_on
from db.training.progress import EpochRecord, LiveProgress, StoredCheckpoint

DEMO = "demo"
STATES = {Work.READY: "queued", Work.DONE: "finished"}
PACE = ("step", "steps", "rate", "eta_seconds")  # of the live progress: true only while a worker trains
_REQUESTED = {Action.RUN_CANCEL: TrainingRun.cancel_requested_at, Action.RUN_STOP: TrainingRun.stop_requested_at}


class RunError(Exception):
    """A run cannot be launched. The message says why, and what to do."""


class BadName(RunError):
    """A model version may not have this name, so the run may not either."""


RunState = Annotated[
    str, WithJsonSchema({"type": "string", "enum": ["queued", "running", "finished", "failed", "cancelled"]})
]


class RunView(View):
    """A training run for people and the API. See TrainingRun for `live`, `config`, `environment`."""

    id: int
    name: str
    preset: str
    state: RunState
    stage: str
    progress: float
    message: str
    live: dict[str, Any] = Field(
        description="The progress: stage, epoch, loss, and while the run is running also step, rate, eta_seconds."
    )
    dataset: str | None
    dataset_deleted: bool = Field(description="The dataset was deleted. Its results stay.")
    seed: int
    config: dict[str, Any]
    allowed_leaks: list[str]
    environment: dict[str, Any]
    error: str | None
    cancelling: bool
    stopping: bool
    stopped_early: bool = Field(description="Training ended before its last epoch, because somebody asked to stop.")
    from_version: str | None
    model_version: str | None
    created_by: str | None
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None


@dataclass(frozen=True)
class NewRun:
    """A run to launch.

    `config`: the preset with all settings. `leaks`: the leaks that `check_split` returned. `estimate`: the seconds and
    the bytes of disk that the run will take, for people.
    """

    dataset: Dataset
    split: Split
    preset: str
    config: dict[str, Any]
    seed: int
    name: str = ""
    from_version: ModelVersion | None = None
    leaks: Sequence[str] = ()
    estimate: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EndRequests:
    """The requests to end a run while it runs."""

    cancel: bool
    stop: bool


def create_demo_run(s: Session, user: User | None, seed: int = 7) -> TrainingRun:
    """Launch a run that makes the demo model. If a demo run is open already, return it."""
    query = select(TrainingRun).where(TrainingRun.demo, TrainingRun.state.in_(OPEN_WORK)).limit(1)
    if run := s.scalar(query):
        return run
    return _launch(s, TrainingRun(demo=True, preset=DEMO, name=DEMO, seed=seed, user_id=user.id if user else None))


def check_name(name: str) -> None:
    """Raise BadName unless a run may have this name. Its model version gets the same name, also at other sites."""
    if not NAME.fullmatch(name):
        raise BadName(
            f"a run cannot be named {name[:64]!r}: a name has 1 to 64 letters, digits, dots, hyphens and underscores,"
            " and begins with a letter or a digit"
        )


def check_split(
    s: Session, dataset: Dataset, split: Split, from_version: ModelVersion | None, allowed_leaks: Sequence[str]
) -> list[str]:
    """Return the leaks of a run on the split. All of them are allowed by name.

    If `seen-by-parent` is allowed, and `from_version` or its ancestors were trained on another dataset, it is always
    among them. The worker later compares the pixels, and removes this leak if no slice was seen. It stays if slices of
    these datasets are deleted or lost.

    Raises RunError: the dataset is not ready, or a leak is not allowed. One possible leak is `seen-by-parent`:
    `from_version` or its ancestors were trained on slices of validation or test.
    """
    if dataset.state != Work.DONE:
        raise RunError(f"the dataset {dataset.label} is not ready: {dataset.error or 'it is still being built'}")
    leaks = split.leaks | (find_seen(s, from_version, split) if from_version else {})
    if refused := sorted(set(leaks) - set(allowed_leaks)):
        counts = "; ".join(_with_count(leak, leaks[leak]) for leak in refused)
        if from_version and SEEN in refused:
            counts += f", which trained {from_version.label} or one that it comes from: they belong in train"
        advice = [about_conflicts(leaks[CONFLICTING])] if CONFLICTING in refused else []
        advice += ["correct the split"] if refused != [CONFLICTING] else []
        raise RunError(
            f"the split of {dataset.label} leaks ({counts}); {'; '.join(advice)}; or allow each leak by its name:"
            f" {', '.join(refused)}"
        )
    names = set(leaks)
    if from_version and SEEN in allowed_leaks:
        others = [*trained_on(s, from_version), *deleted_sources(s, from_version)]
        if any(other.id != dataset.id for other in others):
            names.add(SEEN)
    return sorted(names)


def create_run(s: Session, new: NewRun, user: User | None = None) -> TrainingRun:
    """Launch a run. Without a name, it gets the name of the dataset. Raises DatasetGone."""
    lock_kept(s, new.dataset.id)
    run = TrainingRun(
        user_id=user.id if user else None,
        name=new.name or new.dataset.name,
        preset=new.preset,
        seed=new.seed,
        dataset_id=new.dataset.id,
        split_id=new.split.id,
        from_version_id=new.from_version.id if new.from_version else None,
        config=new.config,
        allowed_leaks=list(new.leaks),
        estimate=dict(new.estimate),
    )
    return _launch(s, run)


def _with_count(name: str, leak: Leak) -> str:
    return f"{name}: {leak['count']}{' slices' if name == SEEN else ''}"


def _launch(s: Session, run: TrainingRun) -> TrainingRun:
    run.message = TrainingRun.WHEN_QUEUED["message"]
    s.add(run)
    s.flush()
    record(s, Action.RUN_LAUNCH, f"run {run.id}")
    broker.wake_after_commit(s, Queue.TRAINING)
    return run


def find_run(s: Session, run_id: int) -> TrainingRun | None:
    """Return the run with this id, or None."""
    return s.get(TrainingRun, run_id)


def list_runs(s: Session) -> list[TrainingRun]:
    """Return all runs, newest first."""
    return list(s.scalars(select(TrainingRun).order_by(TrainingRun.id.desc())))


def epochs_of(s: Session, run_id: int) -> list[Epoch]:
    """Return a run's epochs, in order."""
    return list(s.scalars(select(Epoch).where(Epoch.run_id == run_id).order_by(Epoch.stage, Epoch.epoch)))


def run_view(s: Session, run: TrainingRun) -> RunView:
    """Return the view of a run for people. The pace of training is in `live` only while the run is running."""
    live = {name: value for name, value in run.live.items() if run.state == Work.RUNNING or name not in PACE}
    return RunView(
        id=run.id,
        name=run.name,
        preset=run.preset,
        state=STATES.get(Work(run.state), run.state),
        stage=LiveProgress(**run.live).stage_name if run.live else "",
        progress=run.progress,
        message=run.message,
        live=live | ({"estimate": run.estimate} if run.estimate else {}),
        dataset=run.dataset.label if run.dataset else None,
        dataset_deleted=run.dataset is not None and run.dataset.deleted_at is not None,
        seed=run.seed,
        config=run.config,
        allowed_leaks=run.allowed_leaks,
        environment=run.environment,
        error=run.error,
        cancelling=run.cancel_requested_at is not None and run.state in OPEN_WORK,
        stopping=run.stop_requested_at is not None and run.state in OPEN_WORK,
        stopped_early=run.stopped_early,
        from_version=run.from_version.label if run.from_version else None,
        model_version=run.model_version.label if run.model_version else None,
        created_by=run.user.name if run.user else None,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def cancel_run(s: Session, run: TrainingRun) -> bool:
    """Cancel a run, which then keeps nothing. Return False if it has ended already. A waiting run ends at once."""
    ended = {"state": Work.CANCELLED, "message": "cancelled", "checkpoint": {}, "finished_at": from_now()}
    return _ask(s, run, Work.READY, Action.RUN_CANCEL, **ended) or _ask(
        s, run, Work.RUNNING, Action.RUN_CANCEL, cancel_requested_at=from_now()
    )


def waiting_although_cancelled(s: Session) -> list[TrainingRun]:
    """Return the runs that were cancelled while they ran, but wait again, because their worker was lost or stopped."""
    waiting = (TrainingRun.state == Work.READY, TrainingRun.cancel_requested_at.is_not(None))
    return list(s.scalars(select(TrainingRun).where(*waiting)))


def can_be_stopped(run: TrainingRun) -> bool:
    """Return whether a run can be stopped with a result: it is running, or it waits and has a checkpoint."""
    return run.state == Work.RUNNING or (run.state == Work.READY and bool(run.checkpoint))


def stop_run(s: Session, run: TrainingRun) -> bool:
    """Ask a run to stop training now and make a model version. Return False if it cannot be stopped.

    A waiting run with a checkpoint is due at once. Workers that died before do not count any more, because making the
    version may need less memory than training.
    """
    due = {**TrainingRun.WHEN_QUEUED, "stop_requested_at": from_now(), "lease_until": None, "attempts": 0}
    if run.checkpoint and _ask(s, run, Work.READY, Action.RUN_STOP, **due):
        broker.wake_after_commit(s, Queue.TRAINING)
        return True
    return _ask(s, run, Work.RUNNING, Action.RUN_STOP, stop_requested_at=from_now(), attempts=1)


def _ask(s: Session, run: TrainingRun, now_in: Work, action: Action, **values: Any) -> bool:
    """Change a run that is in this state. Return False if it is in another. Record the first such request."""
    lock_row(s, TrainingRun, run.id)
    is_first = s.scalar(select(_REQUESTED[action].is_(None)).where(TrainingRun.id == run.id))
    mine = (TrainingRun.id == run.id, TrainingRun.state == now_in)
    if s.scalar(update(TrainingRun).where(*mine).values(values).returning(TrainingRun.id)) is None:
        return False
    if is_first:
        record(s, action, f"run {run.id}")
    return True


def claim_run(s: Session, worker: str) -> tuple[TrainingRun, Claim] | None:
    """Claim the oldest run that is due, or return None.

    Remove its epochs after its checkpoint, because their weights were lost with the worker before.
    """
    query = select(TrainingRun).where(leases.due(TrainingRun)).order_by(TrainingRun.id).limit(1)
    run = s.scalar(leases.locked(query, s, of=TrainingRun))
    if run is None or (claim := leases.take(s, TrainingRun, run.id, worker)) is None:
        return None
    first = (TrainingRun.id == run.id, TrainingRun.started_at.is_(None))
    s.execute(update(TrainingRun).where(*first).values(started_at=from_now()))
    s.execute(update(TrainingRun).where(TrainingRun.id == run.id).values(live={}))
    s.refresh(run)
    _remove_epochs_after(s, run, checkpoint_of(run))
    s.refresh(run, ["split"])  # loaded now, for use after the session is closed
    return run, claim


def _remove_epochs_after(s: Session, run: TrainingRun, checkpoint: StoredCheckpoint | None) -> None:
    lost = delete(Epoch).where(Epoch.run_id == run.id)
    if checkpoint:
        lost = lost.where(tuple_(Epoch.stage, Epoch.epoch) > (checkpoint.stage, checkpoint.epoch))
    s.execute(lost)


def report(
    s: Session, claim: Claim, progress: float, message: str, live: LiveProgress | None = None, **columns: Any
) -> EndRequests:
    """Record the progress of a run, renew its lease, and return the requests to end it. Raises StaleClaim.

    `columns`: `environment`, `allowed_leaks`, `stopped_early`.
    """
    if live:
        columns["live"] = live.as_json()
    if not leases.keep(s, TrainingRun, claim):
        raise leases.StaleClaim(f"training run {claim.id}")
    cancel, stop = s.execute(
        update(TrainingRun)
        .where(TrainingRun.id == claim.id)
        .values(progress=progress, message=message, **columns)
        .returning(TrainingRun.cancel_requested_at, TrainingRun.stop_requested_at)
    ).one()
    return EndRequests(cancel is not None, stop is not None)


def running(s: Session) -> list[tuple[int, int]]:
    """Return the id and the fence of each run that a worker has claimed."""
    query = select(TrainingRun.id, TrainingRun.fence).where(TrainingRun.state == Work.RUNNING)
    return [(run_id, fence) for run_id, fence in s.execute(query)]


def put_off(s: Session, claim: Claim, reason: str, *, is_attempt: bool = False) -> None:
    """Put off a run because something is not available now. Raises StaleClaim.

    `is_attempt`: count the claim as an attempt.
    """
    leases.put_off(s, TrainingRun, claim, is_attempt=is_attempt, message=f"put off: {reason}")


def record_epoch(s: Session, claim: Claim, record: EpochRecord) -> None:
    """Record an epoch. Remove records of this and later epochs, which a dead worker made. Raises StaleClaim."""
    if not leases.keep(s, TrainingRun, claim):
        raise leases.StaleClaim(f"training run {claim.id}")
    place = tuple_(Epoch.stage, Epoch.epoch)
    s.execute(delete(Epoch).where(Epoch.run_id == claim.id, place >= (record.stage, record.epoch)))
    s.add(Epoch(run_id=claim.id, **vars(record)))
    s.flush()


def checkpoint_of(run: TrainingRun) -> StoredCheckpoint | None:
    """Return the checkpoint from which a run continues, or None."""
    return StoredCheckpoint(**run.checkpoint) if run.checkpoint else None


def record_checkpoint(s: Session, claim: Claim, checkpoint: StoredCheckpoint) -> None:
    """Record the newest checkpoint. If the worker dies, the run continues from it. Raises StaleClaim."""
    if not leases.keep(s, TrainingRun, claim):
        raise leases.StaleClaim(f"training run {claim.id}")
    # There was progress, so the earlier claims no longer count against the run.
    values = {"checkpoint": checkpoint.as_json(), "attempts": 1, "put_offs": 0}
    s.execute(update(TrainingRun).where(TrainingRun.id == claim.id).values(values))


def finish_run(s: Session, claim: Claim, model_version_id: int) -> None:
    """End a run that made this model version. Raises StaleClaim."""
    message = case((TrainingRun.stopped_early, "done; training was stopped early"), else_="done")
    done = {"progress": 1.0, "message": message, "model_version_id": model_version_id, "finished_at": from_now()}
    leases.close(s, TrainingRun, claim, Work.DONE, checkpoint={}, **done)


def fail_run(s: Session, claim: Claim, error: str) -> None:
    """End a run as failed, with the reason. Raises StaleClaim."""
    ended = {"message": "failed", "checkpoint": {}, "finished_at": from_now()}
    leases.close(s, TrainingRun, claim, Work.FAILED, error=error, **ended)


def end_cancelled(s: Session, claim: Claim) -> None:
    """End a run that was cancelled, and keep nothing. Raises StaleClaim."""
    ended = {"message": "cancelled", "checkpoint": {}, "finished_at": from_now()}
    leases.close(s, TrainingRun, claim, Work.CANCELLED, **ended)
