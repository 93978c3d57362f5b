"""The Celery tasks of training and evaluation workers; the second kind also builds datasets."""

import logging
import tempfile
from pathlib import Path

from sqlalchemy.exc import OperationalError

from db.broker import Queue
from db.database import session_scope
from db.evaluation import gate
from db.ledger.leases import Claim
from db.models import TrainingRun
from db.registry import champions, versions
from db.training import runs
from training.app import app
from training.errors import why
from training.loop.watcher import Cancelled
from worker import claimed
from worker.heartbeat import Heartbeat
from worker.process import worker_name

log = logging.getLogger(__name__)


@app.task(name=Queue.TRAINING)
def train() -> None:
    """Carry out the training run whose turn it is."""
    train_next(worker_name())


@app.task(name=Queue.EVALUATION)
def evaluate() -> None:
    """Carry out the evaluation whose turn it is."""
    from training.evaluation.evaluate_version import evaluate_next

    evaluate_next(worker_name())


@app.task(name=Queue.DATASETS)
def build_dataset() -> None:
    """Build the dataset whose turn it is."""
    from worker.datasets.build import build_next

    build_next(worker_name())


def train_next(worker: str) -> bool:
    """Claim the oldest waiting run and carry it out; False if there is none."""
    with session_scope() as s:
        taken = runs.claim_run(s, worker)
    if taken is None:
        return False
    run, claim = taken
    from training.run import carry_out  # TensorFlow: only where a run is carried out

    def work(heartbeat: Heartbeat) -> None:
        if run.demo:
            _make_demo(run, claim, heartbeat)
        else:
            made.append(carry_out(run, claim, heartbeat))

    def fail(error: Exception) -> None:
        with session_scope() as s:
            if isinstance(error, Cancelled):
                log.info("training run cancelled", extra={"run": run.id})
                runs.end_cancelled(s, claim)
            else:
                log.error("training failed", extra={"run": run.id}, exc_info=error)
                runs.fail_run(s, claim, why(error))

    def put_off(_: Exception) -> None:
        with session_scope() as s:
            runs.put_off(s, claim)

    made: list[int] = []
    claimed.carry_out(TrainingRun, [claim], work, fail=fail, put_off=put_off, away=(OperationalError,))
    for version_id in made:
        _ask_for_comparison(version_id)
    return True


def _ask_for_comparison(version_id: int) -> None:
    """Have the new version held against the champion, so that the promotion gate knows at once."""
    with session_scope() as s:
        if version := versions.find_version(s, str(version_id)):
            gate.request_gate(s, version)


def _make_demo(run: TrainingRun, claim: Claim, heartbeat: Heartbeat) -> None:
    from training.demo.model import make_demo_package

    def progress(fraction: float, message: str) -> None:
        heartbeat.progress()
        with session_scope() as s:
            if runs.report(s, claim, fraction, message).cancel:
                raise Cancelled

    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        make_demo_package(Path(folder), seed=run.seed, progress=progress)
        stored = versions.store_package(Path(folder))
        with session_scope() as s:
            if runs.report(s, claim, 1.0, "registering").cancel:
                raise Cancelled
            version = versions.register_package(s, stored)
            champions.promote_first(s, version, "the first model version")
            runs.finish_run(s, claim, version.id)
