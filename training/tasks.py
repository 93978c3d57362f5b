"""The Celery task of training: claim a run, carry it out under a heartbeat, register what it made."""

import logging
import tempfile
from pathlib import Path

from db import registry, runs
from db.base import session_scope
from db.leases import Claim, StaleClaim
from db.models import TrainingRun
from training.app import app
from worker.heartbeat import Heartbeat
from worker.process import worker_name

log = logging.getLogger(__name__)


@app.task(name="train")
def train(id: int) -> None:
    """Carry out the training run whose turn it is."""
    train_next(worker_name())


def train_next(worker: str) -> bool:
    """Claim the oldest waiting run and carry it out; False if there is none."""
    with session_scope() as s:
        claimed = runs.claim_run(s, worker)
    if claimed is None:
        return False
    run, claim = claimed
    with Heartbeat(TrainingRun, [claim]) as heartbeat:
        try:
            _carry_out(run, claim, heartbeat)
        except StaleClaim:
            log.info("training run is someone else's now", extra={"run": run.id})
        except Exception as error:
            log.exception("training failed", extra={"run": run.id})
            with session_scope() as s:
                runs.fail_run(s, claim, f"{type(error).__name__}: {error}")
    return True


def _carry_out(run: TrainingRun, claim: Claim, heartbeat: Heartbeat) -> None:
    from training.demo import make_demo_package  # TensorFlow: only where a run is carried out

    def progress(fraction: float, message: str) -> None:
        heartbeat.progress()
        with session_scope() as s:
            runs.report(s, claim, fraction, message)

    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        make_demo_package(Path(folder), seed=run.seed, progress=progress)
        files = registry.store_package(Path(folder))
        with session_scope() as s:
            version = registry.register_package(s, Path(folder), files)
            if registry.champion(s) is None:
                registry.promote(s, version, None, "the first model version")
            runs.finish_run(s, claim, version.id)
