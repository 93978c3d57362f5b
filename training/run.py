"""A training run, from the claimed row to the registered model version."""

import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.exc import OperationalError

from db import registry, runs
from db.base import current, read_scope, session_scope
from db.labelled import PARTS, TRAIN
from db.leaks import EXAMPLES, SEEN
from db.leases import Claim
from db.lineage import find_seen
from db.models import TrainingRun
from training import checkpoints
from training.config import Config, checked
from training.dataset import Data, Labelled, load_parts
from training.fit import fit
from training.initial import initial_network
from training.known_slices import find_known, taught_slices
from training.results import Trained, make_package
from training.trainable import environment
from training.watching import Cancelled, Checkpoint, EpochRecord, Step, Watcher
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0  # between two notes of a step in the database
FIT_SHARE = 0.9  # of a run; evaluating and exporting are the rest
PAUSES = (1.0, 4.0, 15.0, 40.0)  # seconds, between tries to record an epoch
MAX_CLAIMS = 3  # without an epoch between them: then the run itself kills its workers


class RunWatcher(Watcher):
    """Tells the database how a run goes, keeps its checkpoints, and hears what is asked of it."""

    def __init__(self, run: TrainingRun, claim: Claim, heartbeat: Heartbeat, config: Config) -> None:
        self._claim, self._heartbeat, self._config = claim, heartbeat, config
        self._last: tuple[float, str] = (run.progress, run.message)
        self._estimate = {name: value for name, value in run.live.items() if name == "estimate"}
        self.kept: dict[str, Any] = run.checkpoint
        self._reported = self._checkpointed = 0.0
        self._stop = False

    def tell(self, progress: float, message: str, **values: Any) -> None:
        """Note something now. Raises Cancelled, StaleClaim."""
        self._heartbeat.progress()
        with session_scope() as s:
            asked = runs.report(s, self._claim, progress, message, **values)
        self._reported, self._last = time.monotonic(), (progress, message)
        self._stop = asked.stop
        if asked.cancel:
            raise Cancelled

    def _note(self, progress: float, message: str, **values: Any) -> None:
        """As `tell`; a database that is away costs no more than this note, for the heartbeat keeps the lease."""
        try:
            self.tell(progress, message, **values)
        except OperationalError as error:
            log.warning("progress not noted", extra={"run": self._claim.id, "error": type(error).__name__})
            self._reported = time.monotonic()

    def step(self, at: Step) -> None:
        """Note where training stands, once a second."""
        self._heartbeat.progress()
        if time.monotonic() - self._reported < REPORT_SECONDS:
            return
        message = at.message or f"{at.stage_name}: epoch {at.epoch + 1} of {at.epochs}"
        self._note(FIT_SHARE * self._share_done(at), message, live=self._live(at))

    def _share_done(self, at: Step) -> float:
        """By the pixels that are shown; a stage that ends early lets it jump."""
        work = [stage.epochs * stage.size**2 for stage in self._config.stages]
        epochs = at.epoch + (at.step / at.steps if at.steps else 0)
        return float((sum(work[: at.stage]) + work[at.stage] * epochs / at.epochs) / sum(work))

    def _live(self, at: Step) -> dict[str, Any]:
        left = (at.epochs - at.epoch) * at.steps - at.step
        seconds = left * self._config.stages[at.stage].batch / at.rate if at.rate else None
        facts = {name: value for name, value in vars(at).items() if name != "message"}
        return self._estimate | facts | {"eta_seconds": seconds}

    def packaging(self, share: float, message: str) -> None:
        """Note how far evaluating and exporting are, `share` from 0 to 1."""
        self._note(FIT_SHARE + (1 - FIT_SHARE) * share, message)

    def alive(self) -> None:
        """The work goes on; hear what is asked of it, once a second."""
        self._heartbeat.progress()
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._note(*self._last)

    def epoch(self, record: EpochRecord) -> None:
        """Keep an epoch's figures."""

        def keep() -> None:
            with session_scope() as s:
                runs.record_epoch(s, self._claim, record.stage, record.epoch, record.metrics, record.seconds)

        self._patiently(keep)

    def _patiently(self, keep: Callable[[], None]) -> None:
        """Do it again while the database is away, for a minute or two: a long epoch would be lost with it."""
        for pause in PAUSES:
            try:
                return keep()
            except OperationalError as error:
                log.warning("not recorded yet", extra={"run": self._claim.id, "error": type(error).__name__})
                self._heartbeat.progress()
                time.sleep(pause)
        return keep()

    def checkpoint(self, make: Callable[[], Checkpoint], *, ends_stage: bool = False) -> None:
        """Write a checkpoint, unless the last one is only seconds old and the stage goes on. A stage that ended is
        never gone through again, or a next one that kills its workers would seem to get on each time."""
        if not ends_stage and time.monotonic() - self._checkpointed < current().checkpoint_seconds:
            return
        earlier, self.kept = self.kept, checkpoints.write(make(), self.kept, self._claim.id)
        self._patiently(self._record_checkpoint)
        checkpoints.drop(earlier, but=self.kept)
        self._checkpointed = time.monotonic()
        self._heartbeat.progress()

    def _record_checkpoint(self) -> None:
        with session_scope() as s:
            runs.record_checkpoint(s, self._claim, self.kept)

    def stopped(self) -> bool:
        """Whether somebody asked to stop and keep what was learned."""
        return self._stop


def carry_out(run: TrainingRun, claim: Claim, heartbeat: Heartbeat) -> int:
    """Train, evaluate, export and register; the id of the model version.

    Raises Cancelled, StaleClaim, and whatever keeps the run from its end (`faults.why` says it to people).
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
            f"the split of {split.dataset.title} leaks ({SEEN}: {len(known)} slices of validation and test are"
            f" near-identical to some that trained {start.label} or one that it comes from: rows {told}); leave them"
            f" out of the dataset, have the column split of a CSV put them into train, or allow it by name: {SEEN}"
        )
    if not len(known) and not by_hash and SEEN in run.allowed_leaks:
        run.allowed_leaks = [each for each in run.allowed_leaks if each != SEEN]
        watcher.tell(0.0, "the split does not leak", allowed_leaks=run.allowed_leaks)


def _register(trained: Trained, claim: Claim, watcher: RunWatcher, package: Path) -> int:
    """Evaluate and export into the folder `package`, and finish the run with the model version; its id."""
    make_package(package, trained, watcher.packaging, watcher.alive)
    files = registry.store_package(package)
    with session_scope() as s:
        if runs.report(s, claim, 1.0, "registering").cancel:
            raise Cancelled
        version = registry.register_package(s, package, files)
        runs.finish_run(s, claim, version.id)
    return version.id


@contextmanager
def work_folder(claim: Claim) -> Iterator[Path]:
    """A claim's own folder on this machine, removed in the end; what killed workers left of any run goes first.

    By claim, not by run: a worker that lost the run and ends late must not remove the folder of the one that has it.
    """
    above = current().home / "training"
    folder = above / f"run-{claim.id}-{claim.epoch}"
    with read_scope() as s:
        going_on = {f"run-{id_}-{epoch}" for id_, epoch in runs.running(s)}
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
