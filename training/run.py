"""A training run, from the claimed row to the registered model version."""

import logging
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import numpy as np

from db import PARTS, TRAIN
from db.database import current, read_scope, session_scope
from db.ledger.leases import Claim
from db.models import TrainingRun
from db.registry import versions
from db.training import runs
from db.training.leaks import EXAMPLES, SEEN
from db.training.lineage import find_seen
from training.config import Config, checked
from training.data.seen_slices import find_known, taught_slices
from training.data.slices import Data, Labelled, load_parts
from training.export.package import Trained, make_package
from training.loop import checkpoints
from training.loop.fit import fit
from training.loop.watcher import Cancelled
from training.network.initial_weights import initial_network
from training.network.training_copy import environment
from training.run_observer import RunWatcher
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

MAX_CLAIMS = 3  # without an epoch between them: then the run itself kills its workers


def carry_out(run: TrainingRun, claim: Claim, heartbeat: Heartbeat) -> int:
    """Train, evaluate, export and register; the id of the model version.

    Raises Cancelled, StaleClaim, and whatever keeps the run from its end (`errors.why` says it to people).
    """
    with work_folder(claim) as folder:  # first of all, for it removes what killed workers left of the run
        if run.attempts > MAX_CLAIMS:
            raise RuntimeError(
                f"{MAX_CLAIMS} workers died of this run before an epoch was done; is there too little memory?"
            )
        config = checked(run.config)
        watcher = RunWatcher(run, claim, heartbeat, config)
        trained = _train(run, config, watcher, folder)
        version_id = _register(trained, claim, watcher, folder / "package")
    checkpoints.drop(watcher.kept, but={})
    return version_id


def _train(run: TrainingRun, config: Config, watcher: RunWatcher, folder: Path) -> Trained:
    run.environment = environment() | {"code": code_version()}
    watcher.tell(0.0, "reading the dataset", environment=run.environment)
    if run.dataset is None or run.split is None:
        raise RuntimeError("the run names no dataset")
    parts = load_parts(run.dataset, run.split, watcher.alive)
    if not run.checkpoint:
        _look_for_known(run, parts, watcher)
    watcher.tell(0.0, "fetching the weights to start from")
    # A checkpoint has the weights: a run that goes on needs neither what they came from nor its file again.
    network = initial_network(config, run.seed, watcher.alive, from_file=not run.checkpoint)
    data = Data(parts["train"], parts["validation"])
    resume = checkpoints.read(run.checkpoint)
    outcome = fit(network, config, data, seed=run.seed, folder=folder, watcher=watcher, resume=resume)
    seconds = sum(record.seconds for record in outcome.history)  # of an interrupted run too
    return Trained(run, config, network, parts, outcome.history, seconds)


def _look_for_known(run: TrainingRun, parts: dict[str, Labelled], watcher: RunWatcher) -> None:
    """Hold what is measured on against the slices of other datasets that taught the version the run starts from. The
    launch went by hashes, and by the clusters of this dataset alone: files that were saved anew are found only here.

    Raises RuntimeError: there are such slices, and that is not allowed.
    """
    start, split = run.from_version, run.split
    if start is None or split is None:
        return
    with read_scope() as s:
        taught = taught_slices(s, start, [TRAIN], but=run.dataset_id)
        by_hash = find_seen(s, start, split) if SEEN in run.allowed_leaks else {}
    if not taught:
        return
    watcher.tell(0.0, f"looking for slices that {start.label} knows")
    measured_on = np.concatenate([parts[name].pixels for name in PARTS[1:]])
    known = np.flatnonzero(find_known(measured_on, chain.from_iterable(taught), watcher.alive))
    if len(known) and SEEN not in run.allowed_leaks:
        rows = [row.row for name in PARTS[1:] for row in parts[name].rows]
        told = ", ".join(str(rows[index]) for index in known[:EXAMPLES]) + (" ..." if len(known) > EXAMPLES else "")
        raise RuntimeError(
            f"the split of {split.dataset.label} leaks ({SEEN}: {len(known)} slices of validation and test are"
            f" near-identical to some that trained {start.label} or one that it comes from: rows {told}); leave them"
            f" out of the dataset, have the column split of a CSV put them into train, or allow it by name: {SEEN}"
        )
    if not len(known) and not by_hash and SEEN in run.allowed_leaks:
        run.allowed_leaks = [each for each in run.allowed_leaks if each != SEEN]
        watcher.tell(0.0, "the split does not leak", allowed_leaks=run.allowed_leaks)


def _register(trained: Trained, claim: Claim, watcher: RunWatcher, package: Path) -> int:
    """Evaluate and export into the folder `package`, and finish the run with the model version; its id."""
    make_package(package, trained, watcher.packaging, watcher.alive)
    stored = versions.store_package(package)
    with session_scope() as s:
        if runs.report(s, claim, 1.0, "registering").cancel:
            raise Cancelled
        version = versions.register_package(s, stored)
        runs.finish_run(s, claim, version.id)
    return version.id


@contextmanager
def work_folder(claim: Claim) -> Iterator[Path]:
    """A claim's own folder on this machine, removed in the end; what killed workers left of any run goes first.

    By claim, not by run: a worker that lost the run and ends late must not remove the folder of the one that has it.
    """
    above = current().home / "training"
    folder = above / f"run-{claim.id}-{claim.fence}"
    with read_scope() as s:
        going_on = {f"run-{run_id}-{fence}" for run_id, fence in runs.running(s)}
    for left in above.glob("run-*"):
        if left == folder or left.name not in going_on:
            shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def code_version() -> str:
    """The commit this code is of, where it is a checkout and there is a git to ask; else the version installed."""
    root = Path(__file__).parents[1]
    if (root / ".git").exists():  # a folder, or a worktree's file; a checkout of other code around it is not asked
        with suppress(OSError):
            found = subprocess.run(  # noqa: S603  (our own folder)
                ["git", "-C", root, "describe", "--always", "--dirty"],  # noqa: S607
                capture_output=True,
                text=True,
                check=False,
            )
            if found.returncode == 0:
                return found.stdout.strip()
    return version("ctbatch")
