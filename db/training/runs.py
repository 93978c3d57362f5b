"""Training runs: launched, claimed under a lease, reported on, asked to end, ended; found and shown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import NAME, broker
from db.broker import Queue
from db.clock import from_now
from db.ledger import leases
from db.ledger.leases import Claim
from db.models import OPEN_WORK, Dataset, Epoch, ModelVersion, Split, TrainingRun, User, Work
from db.training.leaks import SEEN
from db.training.lineage import find_seen, trained_on

DEMO = "demo"
STATES = {Work.READY: "queued", Work.DONE: "finished"}


class RunError(Exception):
    """A run that cannot be launched; one line for people says why and what would do."""


class BadName(RunError):
    """A name that the run's model version could not have."""


@dataclass(frozen=True)
class RunView:
    """A training run as people see it; `progress` from 0 to 1. See TrainingRun for `live`, `config`, `environment`."""

    id: int
    name: str
    preset: str
    state: str
    stage: str
    progress: float
    message: str
    live: dict[str, Any]
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
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON: times in RFC 3339."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class EndRequests:
    """What the owner of a run asked of it while it runs."""

    cancel: bool
    stop: bool


def create_demo_run(s: Session, user: User | None, seed: int = 7) -> TrainingRun:
    """Launch the making of the demo model, or give the run that is making it already."""
    query = select(TrainingRun).where(TrainingRun.demo, TrainingRun.state.in_(OPEN_WORK)).limit(1)
    if run := s.scalar(query):
        return run
    return _launch(s, TrainingRun(demo=True, preset=DEMO, name=DEMO, seed=seed, user_id=user.id if user else None))


def check_name(name: str) -> None:
    """Raise BadName unless a run may be called so, and with it the model version that another site imports."""
    if not NAME.fullmatch(name):
        raise BadName(
            f"a run cannot be named {name[:64]!r}: a name has 1 to 64 letters, digits, dots, hyphens and underscores,"
            " and begins with a letter or a digit"
        )


def check_split(
    s: Session, dataset: Dataset, split: Split, from_version: ModelVersion | None, allowed_leaks: Sequence[str]
) -> list[str]:
    """The leaks that a run on the split has, all of them allowed by name.

    Raises RunError: the dataset is not ready, or its split leaks, or what the run would be measured on trained the
    version that it starts from, and that is not allowed.
    """
    if dataset.state != Work.DONE:
        raise RunError(f"the dataset {dataset.label} is not ready: {dataset.error or 'it is still being built'}")
    found = split.leaks | (find_seen(s, from_version, split) if from_version else {})
    if leaks := sorted(set(found) - set(allowed_leaks)):
        told = "; ".join(_told(leak, found[leak]) for leak in leaks)
        if from_version and SEEN in leaks:
            told += f", which trained {from_version.label} or one that it comes from: they belong in train"
        raise RunError(f"the split of {dataset.label} leaks ({told}); mend it, or allow it by name: {', '.join(leaks)}")
    return sorted(found)


def create_run(
    s: Session,
    *,
    user: User | None,
    dataset: Dataset,
    split: Split,
    preset: str,
    config: dict[str, Any],
    seed: int,
    name: str = "",
    from_version: ModelVersion | None = None,
    allowed_leaks: Sequence[str] = (),
    estimate: dict[str, float] | None = None,
) -> TrainingRun:
    """Launch a run on a dataset that is built. `estimate`: seconds and bytes of disk that it will take, for people.

    Raises BadName; RunError as `check_split` does.
    """
    name = name or dataset.name
    check_name(name)
    leaks = check_split(s, dataset, split, from_version, allowed_leaks)
    if from_version and SEEN in allowed_leaks and any(each.id != dataset.id for each in trained_on(s, from_version)):
        leaks = sorted({*leaks, SEEN})  # the worker looks for near-identical slices, and drops it if there are none
    run = TrainingRun(
        user_id=user.id if user else None,
        name=name,
        preset=preset,
        seed=seed,
        dataset_id=dataset.id,
        split_id=split.id,
        from_version_id=from_version.id if from_version else None,
        config=config,
        allowed_leaks=leaks,
        estimate=estimate or {},
    )
    return _launch(s, run)


def _told(leak: str, facts: Any) -> str:
    count = facts.get("count") if isinstance(facts, dict) else None
    return f"{leak}: {count}{' slices' if leak == SEEN else ''}" if count is not None else leak


def _launch(s: Session, run: TrainingRun) -> TrainingRun:
    run.message = "waiting for a worker"
    s.add(run)
    s.flush()
    broker.wake_after_commit(s, Queue.TRAINING)
    return run


def find_run(s: Session, run_id: int) -> TrainingRun | None:
    """The run of this id."""
    return s.get(TrainingRun, run_id)


def list_runs(s: Session) -> list[TrainingRun]:
    """All runs, newest first."""
    return list(s.scalars(select(TrainingRun).order_by(TrainingRun.id.desc())))


def epochs_of(s: Session, run_id: int) -> list[Epoch]:
    """A run's epochs, in order."""
    return list(s.scalars(select(Epoch).where(Epoch.run_id == run_id).order_by(Epoch.stage, Epoch.epoch)))


def run_view(s: Session, run: TrainingRun) -> RunView:
    """The run as people see it."""
    return RunView(
        id=run.id,
        name=run.name,
        preset=run.preset,
        state=STATES.get(Work(run.state), run.state),
        stage=str(run.live.get("stage_name", "")),
        progress=run.progress,
        message=run.message,
        live=run.live | ({"estimate": run.estimate} if run.estimate else {}),
        dataset=run.dataset.label if run.dataset else None,
        seed=run.seed,
        config=run.config,
        allowed_leaks=run.allowed_leaks,
        environment=run.environment,
        error=run.error,
        cancelling=run.cancel_requested_at is not None and run.state in OPEN_WORK,
        stopping=run.stop_requested_at is not None and run.state in OPEN_WORK,
        from_version=run.from_version.label if run.from_version else None,
        model_version=run.model_version.label if run.model_version else None,
        created_by=run.user.name if run.user else None,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def cancel_run(s: Session, run: TrainingRun) -> bool:
    """Ask a run to end and keep nothing; False if it has ended already. One that waits ends at once."""
    waiting = (TrainingRun.id == run.id, TrainingRun.state == Work.READY)
    ended = {"state": Work.CANCELLED, "message": "cancelled", "checkpoint": {}, "finished_at": from_now()}
    if s.scalar(update(TrainingRun).where(*waiting).values(**ended).returning(TrainingRun.id)):
        return True
    return _ask(s, run, "cancel_requested_at")


def stop_run(s: Session, run: TrainingRun) -> bool:
    """Ask a run to end its training now and make a model version of what it has come to; False if it is not running."""
    return _ask(s, run, "stop_requested_at")


def _ask(s: Session, run: TrainingRun, column: str) -> bool:
    mine = (TrainingRun.id == run.id, TrainingRun.state == Work.RUNNING)
    return s.scalar(update(TrainingRun).where(*mine).values({column: from_now()}).returning(TrainingRun.id)) is not None


def claim_run(s: Session, worker: str) -> tuple[TrainingRun, Claim] | None:
    """Claim the oldest run that waits, or whose worker is gone."""
    query = select(TrainingRun).where(leases.claimable(TrainingRun)).order_by(TrainingRun.id).limit(1)
    run = s.scalar(leases.locked(query, s, of=TrainingRun))
    if run is None or (claim := leases.take(s, TrainingRun, run.id, worker)) is None:
        return None
    first = (TrainingRun.id == run.id, TrainingRun.started_at.is_(None))
    s.execute(update(TrainingRun).where(*first).values(started_at=from_now()))
    s.refresh(run)
    s.refresh(run, ["split"])  # for where no session is open
    return run, claim


def report(s: Session, claim: Claim, progress: float, message: str, **values: Any) -> EndRequests:
    """Note how far a run is, and hear what was asked of it; its heartbeat too.

    `values`: `live`, `environment`, `allowed_leaks`. Raises StaleClaim.
    """
    if not leases.keep(s, TrainingRun, claim):
        raise leases.StaleClaim(f"training run {claim.id}")
    noted = {"progress": progress, "message": message, **values}
    cancel, stop = s.execute(
        update(TrainingRun)
        .where(TrainingRun.id == claim.id)
        .values(**noted)
        .returning(TrainingRun.cancel_requested_at, TrainingRun.stop_requested_at)
    ).one()
    return EndRequests(cancel is not None, stop is not None)


def running(s: Session) -> list[tuple[int, int]]:
    """Return the id and the fence of each run that a worker holds now."""
    query = select(TrainingRun.id, TrainingRun.fence).where(TrainingRun.state == Work.RUNNING)
    return [(run_id, fence) for run_id, fence in s.execute(query)]


def put_off(s: Session, claim: Claim) -> None:
    """Put a run back for a while: the database was away. That is no try of it. Raises StaleClaim."""
    leases.put_off(s, TrainingRun, claim, attempts=TrainingRun.attempts - 1, message="put off: the database was away")


def record_epoch(s: Session, claim: Claim, stage: int, epoch: int, metrics: dict[str, float], seconds: float) -> None:
    """Keep what an epoch came to, in place of what a worker that died after it said. Raises StaleClaim."""
    if not leases.keep(s, TrainingRun, claim):
        raise leases.StaleClaim(f"training run {claim.id}")
    s.execute(delete(Epoch).where(Epoch.run_id == claim.id, Epoch.stage == stage, Epoch.epoch >= epoch))
    s.execute(delete(Epoch).where(Epoch.run_id == claim.id, Epoch.stage > stage))
    s.add(Epoch(run_id=claim.id, stage=stage, epoch=epoch, metrics=metrics, seconds=seconds))
    s.flush()


def record_checkpoint(s: Session, claim: Claim, checkpoint: dict[str, Any]) -> None:
    """Name the newest checkpoint: what the run goes on from if its worker dies. Raises StaleClaim."""
    if not leases.keep(s, TrainingRun, claim):
        raise leases.StaleClaim(f"training run {claim.id}")
    # Progress was made, so the claims before it no longer count against the run.
    s.execute(update(TrainingRun).where(TrainingRun.id == claim.id).values(checkpoint=checkpoint, attempts=1))


def finish_run(s: Session, claim: Claim, model_version_id: int) -> None:
    """The run made this model version. Raises StaleClaim."""
    done = {"progress": 1.0, "message": "done", "model_version_id": model_version_id, "finished_at": from_now()}
    leases.close(s, TrainingRun, claim, Work.DONE, checkpoint={}, **done)


def fail_run(s: Session, claim: Claim, error: str) -> None:
    """The run cannot be done, and why. Raises StaleClaim."""
    ended = {"message": "failed", "checkpoint": {}, "finished_at": from_now()}
    leases.close(s, TrainingRun, claim, Work.FAILED, error=error, **ended)


def end_cancelled(s: Session, claim: Claim) -> None:
    """The run stopped because it was told to, and keeps nothing. Raises StaleClaim."""
    ended = {"message": "cancelled", "checkpoint": {}, "finished_at": from_now()}
    leases.close(s, TrainingRun, claim, Work.CANCELLED, **ended)
