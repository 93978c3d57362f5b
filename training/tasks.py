"""The Celery tasks of training: claim a run or an evaluation and carry it out under a heartbeat."""

import logging
import tempfile
from contextlib import suppress
from pathlib import Path

from sqlalchemy.exc import OperationalError

from db.database import session_scope
from db.evaluation import gate
from db.ledger.leases import Claim, StaleClaim
from db.models import TrainingRun
from db.registry import champions, versions
from db.training import runs
from training.app import app
from training.errors import why
from training.loop.watcher import Cancelled
from worker.heartbeat import Heartbeat
from worker.process import worker_name

log = logging.getLogger(__name__)


@app.task(name="train")
def train(id: int) -> None:
    """Carry out the training run whose turn it is."""
    train_next(worker_name())


@app.task(name="evaluate")
def evaluate(id: int) -> None:
    """Carry out the evaluation whose turn it is."""
    from training.evaluation.evaluate_version import evaluate_next

    evaluate_next(worker_name())


def train_next(worker: str) -> bool:
    """Claim the oldest waiting run and carry it out; False if there is none."""
    with session_scope() as s:
        claimed = runs.claim_run(s, worker)
    if claimed is None:
        return False
    run, claim = claimed
    from training.run import carry_out  # TensorFlow: only where a run is carried out

    made: int | None = None
    with Heartbeat(TrainingRun, [claim]) as heartbeat, suppress(StaleClaim):  # then it is someone else's now
        try:
            if run.demo:
                _make_demo(run, claim, heartbeat)
            else:
                made = carry_out(run, claim, heartbeat)
        except StaleClaim:
            log.info("training run is someone else's now", extra={"run": run.id})
        except Cancelled:
            log.info("training run cancelled", extra={"run": run.id})
            with session_scope() as s:
                runs.end_cancelled(s, claim)
        except OperationalError:
            log.exception("training put off", extra={"run": run.id})
            with session_scope() as s:
                runs.put_off(s, claim)
        except Exception as error:
            log.exception("training failed", extra={"run": run.id})
            with session_scope() as s:
                runs.fail_run(s, claim, why(error))
    if made is not None:
        _ask_for_comparison(made)
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
