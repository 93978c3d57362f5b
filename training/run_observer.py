"""Observes a run: writes its progress, epochs and checkpoints to the database, and reads requests to end it."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from db.background import wait_for_storage
from db.database import current, session_scope
from db.ledger.leases import Claim
from db.models import TrainingRun
from db.training import runs
from db.training.progress import FIT_SHARE, EpochRecord, LiveProgress
from training.config import Stage
from training.errors import Cancelled
from training.loop import checkpoints
from training.loop.observer import Checkpoint, Step, TrainingObserver
from worker.claimed import ProgressNotes, patiently
from worker.heartbeat import Heartbeat

RATE_SECONDS = 60.0  # the rate is the mean over this time


class MovingRate:
    """The images/s of a stage over the last minute, with the validation between epochs.

    The first step of a stage does not count, because it takes long to compile the network.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = -1
        self._done: deque[tuple[float, int]] = deque()

    def after(self, at: Step, batch: int) -> float | None:
        """Return the rate after this step of `batch` slices, or None after the first step of a stage."""
        if at.stage != self._stage:
            self._stage = at.stage
            self._done.clear()
        self._done.append((self._clock(), at.epoch * at.steps + at.step))
        (began, first), (now, last) = self._done[0], self._done[-1]
        while now - began > RATE_SECONDS and len(self._done) > 2:
            self._done.popleft()
            began, first = self._done[0]
        return batch * (last - first) / (now - began) if now > began else None


class RunObserver(TrainingObserver):
    """Reports a run to the database, stores its checkpoints, and gets requests to end it."""

    def __init__(self, run: TrainingRun, claim: Claim, heartbeat: Heartbeat, stages: Sequence[Stage]) -> None:
        self._claim, self._heartbeat, self._stages = claim, heartbeat, stages
        self._last: tuple[float, str] = (run.progress, run.message)
        self.stored = runs.checkpoint_of(run)
        self._notes = ProgressNotes(heartbeat)
        self._checkpointed = 0.0
        self._stop = False
        self.is_stopped_early = False
        self._speed = MovingRate()

    def report(self, progress: float, message: str, **columns: Any) -> None:
        """Report progress, 0 to 1, and other columns of the run now. Raises Cancelled, StaleClaim."""
        self._heartbeat.progress()
        with session_scope() as s:
            requests = runs.report(s, self._claim, progress, message, **columns)
        self._last = progress, message
        self._stop = requests.stop
        if requests.cancel:
            raise Cancelled

    def step(self, at: Step) -> None:
        """Report the position of training, once a second."""
        if at.steps and at.step:
            at = replace(at, rate=self._speed.after(at, self._stages[at.stage].batch))
        message = at.message or f"{at.stage_name}: epoch {at.epoch + 1} of {at.epochs}"
        self._notes.alive(lambda: self.report(FIT_SHARE * self._share_done(at), message, live=self._live(at)))

    def _share_done(self, at: Step) -> float:
        """Return the share of pixels that were shown so far. It jumps if a stage ends early."""
        work = [stage.epochs * stage.size**2 for stage in self._stages]
        epochs = at.epoch + (at.step / at.steps if at.steps else 0)
        return float((sum(work[: at.stage]) + work[at.stage] * epochs / at.epochs) / sum(work))

    def _live(self, at: Step) -> LiveProgress:
        left = (at.epochs - at.epoch) * at.steps - at.step
        seconds = left * self._stages[at.stage].batch / at.rate if at.rate else None
        return LiveProgress.model_validate({**vars(at), "eta_seconds": seconds})

    def packaging(self, share: float, message: str) -> None:
        """Report the progress of evaluating and exporting. `share`: from 0 to 1."""
        self._notes.now(lambda: self.report(FIT_SHARE + (1 - FIT_SHARE) * share, message))

    def alive(self) -> None:
        """Get requests once a second while there is nothing to report."""
        self._notes.alive(lambda: self.report(*self._last))

    def epoch(self, record: EpochRecord) -> None:
        """Record an epoch. Wait while the database is unreachable."""

        def record_epoch() -> None:
            with session_scope() as s:
                runs.record_epoch(s, self._claim, record)

        patiently(self._heartbeat, record_epoch)

    def checkpoint(self, make: Callable[[], Checkpoint], *, ends_stage: bool = False) -> None:
        """Write a checkpoint, unless the last one is only seconds old and the stage goes on.

        There is always a checkpoint at the end of a stage. Without this checkpoint, the finished stage would be trained
        again each time the next stage kills its worker. That would count as progress.
        """
        if not ends_stage and time.monotonic() - self._checkpointed < current().checkpoint_seconds:
            return
        earlier, made = self.stored, make()
        write = partial(checkpoints.write, made, earlier, self._claim.id)
        self.stored = wait_for_storage(write, self.alive)
        patiently(self._heartbeat, self._record_checkpoint)
        checkpoints.drop(earlier, but=self.stored)
        self._checkpointed = time.monotonic()
        self._heartbeat.progress()

    def _record_checkpoint(self) -> None:
        if self.stored:
            with session_scope() as s:
                runs.record_checkpoint(s, self._claim, self.stored)

    def ended_early(self) -> None:
        """Record that training was stopped before its last epoch. Wait while the database is unreachable."""
        patiently(self._heartbeat, lambda: self.report(*self._last, stopped_early=True))
        self.is_stopped_early = True

    def stopped(self) -> bool:
        """Return whether somebody asked to stop the run and keep what it has learned."""
        return self._stop
