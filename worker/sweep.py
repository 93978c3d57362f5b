"""The sweeper: repairs rows after crashes, every few seconds. Several sweepers may run at once.

Run it as `python -m worker.sweep`.
"""

import logging
import os
import signal
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import exists, select
from sqlalchemy.exc import SQLAlchemyError

from db import broker, logs
from db.access import sign_in_counts
from db.broker import Queue
from db.clock import moment
from db.database import current, read_scope, session_scope
from db.datasets import job_deletion
from db.installation import ForeignStorage
from db.ledger import chunks, completion, leases
from db.ledger.backlog import record_sweep
from db.ledger.completion import JobGone
from db.models import OPEN_JOB, OPEN_WORK, Chunk, Dataset, Evaluation, Job, LeaseMixin, TrainingRun, Upload
from db.registry import engine_proofs
from worker import scrub
from worker.lease_watch import LeaseWatch
from worker.reap import TooManyOrphans, reap

log = logging.getLogger(__name__)

BATCHES = 20
"""The most batches of rows of deleted jobs that a round removes, so that leases do not wait for a large job."""

QUEUES: dict[type[LeaseMixin], Queue] = {
    Upload: Queue.INGEST,
    Chunk: Queue.INFERENCE,
    Dataset: Queue.DATASETS,
    TrainingRun: Queue.TRAINING,
    Evaluation: Queue.EVALUATION,
}


def sweep(watch: LeaseWatch | None = None) -> None:
    """Do one round: repair the ledger, note the sweep, and send lost messages again if the broker is reachable.

    Then remove rows of deleted jobs.

    Without a watch, every lease that has run out counts as lost.
    """
    sweep_ledger(watch)
    _note_sweep(watch)
    try:
        send_again()
    except (OperationalError, RedisError, OSError) as error:  # try again in the next round
        log.warning("broker unreachable, no message sent again", extra={"error": type(error).__name__})
    _remove_deleted_jobs()
    _may_judge(watch)  # a gap during this round counts too


def _note_sweep(watch: LeaseWatch | None) -> None:
    """Note in the database, and for `ctbatch worker sweep --check`, that this process sweeps."""
    with session_scope() as s:
        now = moment(s)
        record_sweep(s)
        sign_in_counts.forget_old(s)
    if watch is not None:
        watch.wrote(now)
    run_dir = current().run_dir
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (run_dir / "sweep.ready").touch()


def send_again() -> None:
    """Send messages that may be lost again, for every kind of work. Raises the broker's errors if it is unreachable."""
    for model, queue in QUEUES.items():
        _resend(model, queue)
    _ask_for_trial()


def sweep_ledger(watch: LeaseWatch | None = None) -> None:
    """Split chunks whose lease is lost, free other work whose lease is lost, and end jobs that have nothing open.

    This needs no broker.
    """
    _free_lost_chunks(watch)
    for model in (Upload, Dataset, TrainingRun, Evaluation):
        _free_lost(model, watch)
    _finish_jobs()


def _may_judge(watch: LeaseWatch | None) -> bool:
    with read_scope() as s:
        return watch is None or watch.may_judge(moment(s))


def _free_lost_chunks(watch: LeaseWatch | None) -> None:
    with read_scope() as s:
        lost = leases.expired(s, Chunk)
    if not _may_judge(watch):
        return
    for chunk_id in lost:
        with suppress(JobGone), session_scope() as s:
            chunk = s.get_one(Chunk, chunk_id)
            job = completion.lock_job(s, chunk.job_id)
            s.refresh(chunk)
            now = moment(s)
            if watch is not None and not watch.may_judge(now):
                return
            if s.scalar(select(Chunk.id).where(Chunk.id == chunk.id, leases.lapsed(Chunk))) is None:
                continue  # another sweeper was quicker, or the worker has recorded it after all
            log.warning("lease lost", extra={"chunk": chunk.id, "job": job.id, "slices": chunk.size})
            chunks.lose_chunk(s, chunk, "worker_lost")
            completion.finish_if_done(s, job)
        if watch is not None:
            watch.wrote(now)


def _free_lost(model: type[LeaseMixin], watch: LeaseWatch | None) -> None:
    with read_scope() as s:
        if not leases.expired(s, model):
            return
    with session_scope() as s:
        if watch is None or watch.may_judge(moment(s)):
            for row_id in leases.free_expired(s, model):
                log.warning("lease lost", extra={"kind": model.__name__, "id": row_id})


def _resend(model: type[LeaseMixin], queue: Queue) -> None:
    """Send messages for rows that have waited long. Send as many as the queue lacks.

    Any message makes a worker take the next row, so only the number of messages matters.
    """
    with read_scope() as s:
        stale = leases.unsent(s, model)
    if not stale:
        return
    missing = len(stale) - broker.waiting(queue)
    sent = [row_id for row_id in stale[: max(missing, 0)] if broker.wake(queue)]
    if sent:
        with session_scope() as s:
            leases.mark_sent(s, model, sent)
        log.info("messages sent again", extra={"queue": queue, "messages": len(sent)})


def _ask_for_trial() -> None:
    """Wake an inference worker if an imported version has been tried nowhere. The gate waits for this trial."""
    with read_scope() as s:
        is_any = engine_proofs.is_any_untried(s)
    if is_any and not broker.waiting(Queue.INFERENCE):
        broker.wake(Queue.INFERENCE)


def _finish_jobs() -> None:
    """End jobs that have nothing open. The worker that closed the last row may have died before it ended the job."""

    def none_open(model: Any) -> Any:
        return ~exists().where(model.job_id == Job.id, model.state.in_(OPEN_WORK))

    with read_scope() as s:
        done = s.scalars(select(Job.id).where(Job.state.in_(OPEN_JOB), none_open(Upload), none_open(Chunk))).all()
    for job_id in done:
        with suppress(JobGone), session_scope() as s:
            completion.finish_if_done(s, completion.lock_job(s, job_id))


def _remove_deleted_jobs() -> None:
    with read_scope() as s:
        if not job_deletion.is_any_left(s):
            return
    for _ in range(BATCHES):
        with session_scope() as s:
            if not job_deletion.remove_some(s):
                return


def reap_and_log() -> None:
    """Carry out one round of the reaper, or log why no file may be removed."""
    try:
        log.info("files were reaped", extra=asdict(reap()))
    except (ForeignStorage, TooManyOrphans) as error:
        log.warning("no file is reaped: %s", error)


def reap_until(stop: threading.Event) -> None:
    """Reap again and again, whatever fails, until the event is set."""
    settings = current()
    seconds = settings.sweep_seconds
    while not stop.wait(seconds):
        try:
            reap_and_log()
            seconds = settings.reap_every_seconds
        except (SQLAlchemyError, OSError) as error:
            log.warning("reaping failed", extra={"error": type(error).__name__})
            seconds = settings.sweep_seconds
        except Exception:  # nobody would start this thread again
            log.exception("reaping failed")
            seconds = settings.sweep_seconds


def main() -> None:
    """Sweep until a signal stops this process."""
    os.umask(0o077)  # stored files are for this user alone
    logs.configure("sweep")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    scrub.start(stop)
    settings = current()
    # Reaping lists all files, which may take long. Nothing waits for it.
    threading.Thread(target=reap_until, args=(stop,), name="reaper", daemon=True).start()
    watch = LeaseWatch()
    while not stop.is_set():
        try:
            sweep(watch)
        except (SQLAlchemyError, OSError) as error:  # database or storage is unreachable; try again next round
            log.warning("sweep failed", extra={"error": type(error).__name__})
        stop.wait(settings.sweep_seconds)


if __name__ == "__main__":
    main()
