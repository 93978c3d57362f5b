"""Training runs: launched, claimed under a lease, reported on, ended."""

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import broker, leases
from db.base import from_now
from db.leases import Claim
from db.models import OPEN_WORK, TrainingRun, User, Work

DEMO = "demo"


@dataclass(frozen=True)
class RunView:
    """A training run as people see it; `progress` from 0 to 1."""

    id: int
    preset: str
    state: str
    progress: float
    message: str
    error: str | None
    model_version: str | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def create_demo_run(s: Session, user: User | None, seed: int = 7) -> TrainingRun:
    """Launch the making of the demo model, or give the run that is making it already."""
    query = select(TrainingRun).where(TrainingRun.preset == DEMO, TrainingRun.state.in_(OPEN_WORK)).limit(1)
    if run := s.scalar(query):
        return run
    run = TrainingRun(preset=DEMO, seed=seed, user_id=user.id if user else None, message="waiting for a worker")
    s.add(run)
    s.flush()
    broker.send_after_commit(s, broker.train_hint(run.id))
    return run


def find_run(s: Session, run_id: int) -> TrainingRun | None:
    """The run of this id."""
    return s.get(TrainingRun, run_id)


def run_view(s: Session, run: TrainingRun) -> RunView:
    """The run as people see it."""
    names = {Work.READY: "queued", Work.DONE: "finished"}
    label = run.model_version.label if run.model_version else None
    state = names.get(Work(run.state), run.state)
    return RunView(run.id, run.preset, state, run.progress, run.message, run.error, label)


def claim_run(s: Session, worker: str) -> tuple[TrainingRun, Claim] | None:
    """Claim the oldest run that waits, or whose worker is gone."""
    query = select(TrainingRun).where(leases.claimable(TrainingRun)).order_by(TrainingRun.id).limit(1)
    run = s.scalar(leases.locked(query, s, of=TrainingRun))
    if run is None or (claim := leases.take(s, TrainingRun, run.id, worker)) is None:
        return None
    return run, claim


def report(s: Session, claim: Claim, progress: float, message: str) -> None:
    """Note how far a run is; this is its heartbeat too. Raises StaleClaim."""
    if not leases.keep(s, TrainingRun, claim):
        raise leases.StaleClaim(f"training run {claim.id}")
    s.execute(update(TrainingRun).where(TrainingRun.id == claim.id).values(progress=progress, message=message))


def finish_run(s: Session, claim: Claim, model_version_id: int) -> None:
    """The run made this model version. Raises StaleClaim."""
    done = {"progress": 1.0, "message": "done", "model_version_id": model_version_id, "finished_at": from_now()}
    leases.close(s, TrainingRun, claim, Work.DONE, **done)


def fail_run(s: Session, claim: Claim, error: str) -> None:
    """The run cannot be done, and why. Raises StaleClaim."""
    leases.close(s, TrainingRun, claim, Work.FAILED, error=error, message="failed", finished_at=from_now())
