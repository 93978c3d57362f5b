"""Carries out a training run, from the claimed row to the registered model version."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from db import PARTS, TRAIN
from db.background import wait_for_storage
from db.database import current, in_transaction, read_scope, session_scope
from db.evaluation.gate import request_gate
from db.evaluation.promotion import promote_first
from db.ledger.leases import Claim
from db.models import TrainingRun
from db.registry import versions
from db.registry.versions import StoredPackage
from db.training import runs
from db.training.leaks import EXAMPLES, SEEN
from db.training.lineage import find_seen
from training.config import Config, checked
from training.data.seen_slices import find_seen_in_training, gone_note, training_slices_of
from training.data.slices import Data, Labelled, load_parts
from training.demo import model as demo
from training.errors import Cancelled, NoRoom, RunFailed, is_full_disk, message_for, message_for_waiting
from training.export.package import Trained, make_package
from training.loop import checkpoints
from training.loop.fit import fit
from training.network.backend import compute_repeatably, environment
from training.network.initial_weights import initial_network
from training.network.pixel_scale import check_pixels
from training.network.training_copy import precision_of
from training.run_observer import RunObserver
from worker import claimed
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

STARTING = {
    "none": "building the network with random weights",
    "imagenet": "fetching ImageNet's weights",
    "file": "reading the file of weights to start from",
    "model": "reading the model version to start from",
}
MAX_CLAIMS = 3  # after more claims without an epoch between them, the run itself seems to kill its workers


def train_next(worker: str) -> bool:
    """Claim the oldest waiting run, and carry it out. Return False if no run waits."""
    if not claimed.may_claim():
        return False
    taken = in_transaction(lambda s: runs.claim_run(s, worker))
    if taken is None:
        return False
    run, claim = taken

    def fail(error: Exception) -> None:
        with session_scope() as s:
            if isinstance(error, Cancelled):
                log.info("training run cancelled", extra={"run": run.id})
                runs.end_cancelled(s, claim)
            else:
                log.error("training failed", extra={"run": run.id}, exc_info=error)
                runs.fail_run(s, claim, message_for(error))

    def put_off(error: Exception, is_attempt: bool) -> None:
        reason = message_for_waiting(error) if is_full_disk(error) else claimed.reason_of(error)
        with session_scope() as s:
            runs.put_off(s, claim, reason, is_attempt=is_attempt)

    def work(heartbeat: Heartbeat) -> None:
        try:
            carry_out(run, claim, heartbeat)
        except (OSError, NoRoom) as error:
            # A run without a checkpoint may need other settings. Nothing is lost if a person launches it again.
            if is_full_disk(error) and not _has_checkpoint(run.id):
                raise RunFailed(message_for(error)) from error
            raise

    claimed.carry_out(
        TrainingRun,
        [claim],
        work,
        fail=fail,
        put_off=put_off,
        away=(*claimed.DATA_AWAY, NoRoom),
        tries=MAX_CLAIMS,
        is_given_back=True,
    )
    return True


def _has_checkpoint(run_id: int) -> bool:
    with read_scope() as s:
        return bool(s.get_one(TrainingRun, run_id).checkpoint)


def carry_out(run: TrainingRun, claim: Claim, heartbeat: Heartbeat) -> None:
    """Train the network, evaluate it, export it, and register the model version.

    Raises Cancelled, StaleClaim, and any error that ends the run (`errors.message_for` explains it to people).
    """
    if current().repeatable_training:
        compute_repeatably()
    with work_folder(claim) as folder:  # this comes first, because it removes the folders of killed workers
        if run.attempts > MAX_CLAIMS:
            raise RunFailed(
                f"{MAX_CLAIMS} workers died during this run before an epoch was done; check whether the machine has"
                " enough memory"
            )
        config = None if run.demo else checked(run.config)
        observer = RunObserver(run, claim, heartbeat, config.stages if config else ())
        if config is None:
            run.environment = environment() | {"code": code_version()}
            observer.report(0.0, "starting", environment=run.environment)
            package = demo.make_demo_package(folder / "package", seed=run.seed, progress=observer.report)
        else:
            trained = _train(run, config, observer, folder)
            package = make_package(folder / "package", trained, observer.packaging, observer.alive)
        stored = wait_for_storage(lambda: versions.store_package(folder / "package", package), observer.alive)
        register(stored, run, claim, heartbeat)
    checkpoints.drop(observer.stored)


def _train(run: TrainingRun, config: Config, observer: RunObserver, folder: Path) -> Trained:
    config = settle_environment(run, config)
    observer.report(0.0, "reading the dataset", environment=run.environment)
    if run.dataset is None or run.split is None:
        raise RunFailed("the run names no dataset; launch another one on a dataset")
    parts = load_parts(run.dataset, run.split, observer.alive)
    resume = wait_for_storage(lambda: checkpoints.read(observer.stored), observer.alive)
    if resume is None:
        _check_seen_slices(run, parts, observer)
    observer.report(0.0, "building the network" if resume else STARTING[config.initial.kind])
    # A checkpoint has the weights, so a resumed run does not need the file with the initial weights.
    network = initial_network(config, run.seed, observer.alive, from_file=resume is None)
    if resume is None and config.initial.kind != "none":
        check_pixels(network, parts["train"].pixels, config.pixels)
    observer.report(0.0, "preparing the first epoch")
    data = Data(parts["train"], parts["validation"])
    fitted = fit(network, config, data, seed=run.seed, folder=folder, observer=observer, resume=resume)
    seconds = sum(record.seconds for record in fitted.history)  # also of epochs before an interruption
    stopped = observer.is_stopped_early
    return Trained(run, config, network, parts, fitted.history, seconds, stage=fitted.stage, stopped_early=stopped)


def settle_environment(run: TrainingRun, config: Config) -> Config:
    """Record the environment of the run, and return its config with a definite precision.

    If a run continues on another machine, it keeps its first precision and environment. Differences of the new machine
    are added with the suffix ` (resumed)`.
    """
    here = environment() | {"code": code_version(), "precision": precision_of(config)}
    if current().repeatable_training:
        here["repeatable"] = "on this machine"
    if not run.checkpoint or not run.environment:
        run.environment = here
    elif changed := {name: here[name] for name in here if here[name] != run.environment.get(name)}:
        run.environment = run.environment | {f"{name} (resumed)": value for name, value in changed.items()}
    settled = run.environment.get("precision", here["precision"])
    return config.model_copy(update={"precision": settled})


def _check_seen_slices(run: TrainingRun, parts: dict[str, Labelled], observer: RunObserver) -> None:
    """Compare validation and test with slices of other datasets on which the parent version was trained.

    The parent is the version that the run starts from. The launch compared only hashes, and clusters of this dataset.
    Files that were saved again are found only here. If slices of other datasets are gone or deleted, the environment
    of the run says so, and `seen-by-parent` stays allowed if it was.

    Raises RunFailed: slices of the parent are in validation or test, and the run does not allow this leak.
    """
    start, split = run.from_version, run.split
    if start is None or split is None:
        return
    with read_scope() as s:
        trained = training_slices_of(s, start, [TRAIN], but=run.dataset_id)
        seen_by_hash = find_seen(s, start, split) if SEEN in run.allowed_leaks else {}
    if not trained.rows and not trained.deleted:
        return
    observer.report(0.0, f"looking for slices that trained {start.label}")
    measured_on = np.concatenate([parts[name].pixels for name in PARTS[1:]])
    seen = np.flatnonzero(find_seen_in_training(measured_on, trained, observer.alive))
    if len(seen) and SEEN not in run.allowed_leaks:
        rows = [row.row for name in PARTS[1:] for row in parts[name].rows]
        examples = ", ".join(str(rows[index]) for index in seen[:EXAMPLES]) + (" ..." if len(seen) > EXAMPLES else "")
        raise RunFailed(
            f"the split of {split.dataset.label} leaks ({SEEN}: {len(seen)} slices of validation and test are"
            f" near-identical to some that trained {start.label} or one that it comes from: rows {examples}); leave"
            f" them out of the dataset, put them into train by the column split of a CSV, or allow it by name: {SEEN}"
        )
    if trained.gone:
        note = gone_note(trained.gone)
        run.environment = run.environment | {"not compared": note}  # stays in sight, also on the card
        observer.report(0.0, note, environment=run.environment)
    elif not len(seen) and not seen_by_hash and SEEN in run.allowed_leaks:
        run.allowed_leaks = [leak for leak in run.allowed_leaks if leak != SEEN]
        observer.report(0.0, "the split does not leak", allowed_leaks=run.allowed_leaks)


def register(stored: StoredPackage, run: TrainingRun, claim: Claim, heartbeat: Heartbeat) -> None:
    """Make a model version of a stored package, finish its run, and request the comparison with the champion.

    All this is one transaction, so that nothing is missing if the worker dies. The first demo model is also promoted.
    Wait while the database is unreachable. Raises Cancelled, StaleClaim.
    """

    def finish() -> None:
        with session_scope() as s:
            if runs.report(s, claim, 1.0, "registering").cancel:
                raise Cancelled
            version = versions.register_package(s, stored)
            runs.finish_run(s, claim, version.id)
            if run.demo:
                promote_first(s, version)
            request_gate(s, version)

    claimed.patiently(heartbeat, finish)


@contextmanager
def work_folder(claim: Claim) -> Iterator[Path]:
    """Make a folder on this machine for a claim, and remove it at the end. First remove the folders of killed workers.

    The folder is named by the claim, not by the run. Otherwise a worker that has lost the run, and ends late, would
    remove the folder of the worker that now has the run.
    """
    parent = current().home / "training"
    folder = parent / f"run-{claim.id}-{claim.fence}"
    # list the folders before reading the rows, because a folder is made after its claim
    folders = list(parent.glob("run-*"))
    with read_scope() as s:
        running = {f"run-{run_id}-{fence}" for run_id, fence in runs.running(s)}
    for leftover in folders:
        if leftover == folder or leftover.name not in running:
            shutil.rmtree(leftover, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def code_version() -> str:
    """Return the commit of this code, if it is a checkout and git is installed, or else the installed version."""
    root = Path(__file__).parents[1]
    if (root / ".git").exists():  # a folder, or the file of a worktree; not the checkout of other code around this
        with suppress(OSError):
            described = subprocess.run(  # noqa: S603  (our own folder)
                ["git", "-C", root, "describe", "--always", "--dirty"],  # noqa: S607
                capture_output=True,
                text=True,
                check=False,
            )
            if described.returncode == 0:
                return described.stdout.strip()
    return version("ctbatch")
