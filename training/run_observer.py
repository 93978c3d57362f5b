"""What watches a run: its progress, epochs and checkpoints go to the database; requests to end come back."""

import logging
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy.exc import OperationalError

from db.database import current, session_scope
from db.ledger.leases import Claim
from db.models import TrainingRun
from db.training import runs
from training.config import Config
from training.loop import checkpoints
from training.loop.watcher import Cancelled, Checkpoint, EpochRecord, Step, Watcher
from worker.claimed import ProgressNotes
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

FIT_SHARE = 0.9  # of a run; evaluating and exporting are the rest
PAUSES = (1.0, 4.0, 15.0, 40.0)  # seconds, between tries to record an epoch


class RunWatcher(Watcher):
    """Tells the database how a run goes, keeps its checkpoints, and hears what is asked of it."""

    def __init__(self, run: TrainingRun, claim: Claim, heartbeat: Heartbeat, config: Config) -> None:
        self._claim, self._heartbeat, self._config = claim, heartbeat, config
        self._last: tuple[float, str] = (run.progress, run.message)
        self.kept: dict[str, Any] = run.checkpoint
        self._notes = ProgressNotes(heartbeat)
        self._checkpointed = 0.0
        self._stop = False

    def tell(self, progress: float, message: str, **values: Any) -> None:
        """Note something now. Raises Cancelled, StaleClaim."""
        self._heartbeat.progress()
        with session_scope() as s:
            asked = runs.report(s, self._claim, progress, message, **values)
        self._last = progress, message
        self._stop = asked.stop
        if asked.cancel:
            raise Cancelled

    def step(self, at: Step) -> None:
        """Note where training stands, once a second."""
        message = at.message or f"{at.stage_name}: epoch {at.epoch + 1} of {at.epochs}"
        self._notes.alive(lambda: self.tell(FIT_SHARE * self._share_done(at), message, live=self._live(at)))

    def _share_done(self, at: Step) -> float:
        """By the pixels that are shown; a stage that ends early lets it jump."""
        work = [stage.epochs * stage.size**2 for stage in self._config.stages]
        epochs = at.epoch + (at.step / at.steps if at.steps else 0)
        return float((sum(work[: at.stage]) + work[at.stage] * epochs / at.epochs) / sum(work))

    def _live(self, at: Step) -> dict[str, Any]:
        left = (at.epochs - at.epoch) * at.steps - at.step
        seconds = left * self._config.stages[at.stage].batch / at.rate if at.rate else None
        facts = {name: value for name, value in vars(at).items() if name != "message"}
        return facts | {"eta_seconds": seconds}

    def packaging(self, share: float, message: str) -> None:
        """Note how far evaluating and exporting are, `share` from 0 to 1."""
        self._notes.now(lambda: self.tell(FIT_SHARE + (1 - FIT_SHARE) * share, message))

    def alive(self) -> None:
        """The work goes on; hear what is asked of it, once a second."""
        self._notes.alive(lambda: self.tell(*self._last))

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
