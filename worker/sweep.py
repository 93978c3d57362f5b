"""The sweeper: repairs rows after crashes, every few seconds. Several sweepers may run at once.

Run it as `python -m worker.sweep`.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy import exists, or_, select
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from db import broker, logs
from db.access import audit, sign_in_counts
from db.broker import Queue
from db.clock import moment
from db.database import current, is_broken_off, lock_briefly, read_scope, session_scope
from db.datasets import job_deletion
from db.installation import ForeignStorage
from db.ledger import chunks, completion, leases
from db.ledger.backlog import record_sweep
from db.ledger.completion import JobGone
from db.models import OPEN_JOB, OPEN_WORK, Chunk, Dataset, Evaluation, Job, LeaseMixin, TrainingRun, Upload
from db.registry import engine_proofs
from db.training import dataset_deletion, runs
from worker import scrub
from worker.lease_watch import LeaseWatch
from worker.reap import TooManyOrphans, reap

log = logging.getLogger(__name__)

BATCHES = 20
"""The most batches of rows of deleted jobs that a round removes, so that leases do not wait for a large job. The same
holds for deleted datasets."""

QUEUES: dict[type[LeaseMixin], Queue] = {
    Upload: Queue.INGEST,
    Chunk: Queue.INFERENCE,
    Dataset: Queue.DATASETS,
    TrainingRun: Queue.TRAINING,
    Evaluation: Queue.EVALUATION,
}


def sweep(watch: LeaseWatch | None = None) -> None:
    """Do one round: free lost work, note the sweep, and send lost messages again if the broker is reachable.

    Then remove rows of deleted jobs and datasets.

    Without a watch, every lease that has run out counts as lost.
    """
    free_lost(watch)
    _note_sweep(watch)
    try:
        send_again()
    except (BrokerError, RedisError, OSError) as error:  # try again in the next round
        log.warning("broker unreachable, no message sent again", extra={"error": type(error).__name__})
    _remove_deleted(job_deletion.is_any_left, job_deletion.remove_some)
    _remove_deleted(dataset_deletion.is_any_left, dataset_deletion.remove_some)
    _may_judge(watch)  # a gap during this round counts too


def _note_sweep(watch: LeaseWatch | None) -> None:
    """Note in the database, and for `ctbatch worker sweep --check`, that this process sweeps. Seal the audit trail."""
    with session_scope() as s:
        now = moment(s)
        record_sweep(s)
        sign_in_counts.forget_old(s)
        engine_proofs.forget_gone(s)
        sealed = audit.seal(s)
    if sealed is not None:
        log.info("audit trail sealed", extra={"seal": sealed.id, "events": sealed.events, "digest": sealed.digest})
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


def sweep_ledger() -> None:
    """Free work whose lease is lost, and end jobs that have nothing open. This needs no broker."""
    free_lost()
    finish_jobs()


def free_lost(watch: LeaseWatch | None = None) -> None:
    """Split chunks whose lease is lost, and free other work whose lease is lost. End cancelled runs that wait."""
    _free_lost_chunks(watch)
    for model in (Upload, Dataset, TrainingRun, Evaluation):
        _free_lost(model, watch)
    _end_cancelled_runs()


def _may_judge(watch: LeaseWatch | None) -> bool:
    with read_scope() as s:
        return watch is None or watch.may_judge(moment(s))


def _free_lost_chunks(watch: LeaseWatch | None) -> None:
    with read_scope() as s:
        lost = s.execute(select(Chunk.id, Chunk.job_id).where(leases.lapsed(Chunk))).all()
    if not _may_judge(watch):
        return
    held: set[str] = set()  # jobs that another transaction has locked; their chunks wait for the next round
    for chunk_id, job_id in lost:
        try:
            if job_id not in held and not _free_lost_chunk(chunk_id, job_id, watch):
                return
        except JobGone:
            continue
        except OperationalError as error:
            if not is_broken_off(error):
                raise
            held.add(job_id)
            log.warning("lost chunks are freed later", extra={"job": job_id, "error": type(error.orig).__name__})


def _free_lost_chunk(chunk_id: int, job_id: str, watch: LeaseWatch | None) -> bool:
    """Split the chunk if its lease is still lost. Return False if no lease may be judged now."""
    with session_scope() as s:
        lock_briefly(s)  # a long wait would count as a gap, and other leases would be judged later
        job = completion.lock_job(s, job_id)
        chunk = s.get_one(Chunk, chunk_id)
        now = moment(s)
        if watch is not None and not watch.may_judge(now):
            return False
        if s.scalar(select(Chunk.id).where(Chunk.id == chunk.id, leases.lapsed(Chunk))) is None:
            return True  # another sweeper was quicker, or the worker has recorded it after all
        log.warning("lease lost", extra={"chunk": chunk.id, "job": job.id, "slices": chunk.size})
        chunks.lose_chunk(s, chunk, "worker_lost")
        completion.finish_if_done(s, job)
    if watch is not None:
        watch.wrote(now)
    return True


def _free_lost(model: type[LeaseMixin], watch: LeaseWatch | None) -> None:
    with read_scope() as s:
        if not leases.expired(s, model):
            return
    with session_scope() as s:
        if watch is None or watch.may_judge(moment(s)):
            for row_id in leases.free_expired(s, model):
                log.warning("lease lost", extra={"kind": model.__name__, "id": row_id})


def _end_cancelled_runs() -> None:
    with read_scope() as s:
        waiting = runs.waiting_although_cancelled(s)
    for run in waiting:
        with session_scope() as s:
            runs.cancel_run(s, run)
        log.info("training run cancelled", extra={"run": run.id})


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


def finish_jobs() -> None:
    """End jobs that have nothing open, and settle jobs that have no open upload. Workers leave large jobs to this."""

    def none_open(model: Any) -> Any:
        return ~exists().where(model.job_id == Job.id, model.state.in_(OPEN_WORK))

    with read_scope() as s:
        due = or_(Job.unpacked_at.is_(None), none_open(Chunk))
        jobs = s.scalars(select(Job.id).where(Job.state.in_(OPEN_JOB), none_open(Upload), due)).all()
    for job_id in jobs:
        try:
            completion.finish_in_steps(job_id)
        except Exception as error:
            if isinstance(error, OperationalError) and not is_broken_off(error):
                raise  # the database is away
            cause = getattr(error, "orig", None) or error  # only its name, because its text could hold a file's name
            log.error("a job is ended later", extra={"job": job_id, "error": type(cause).__name__})  # noqa: TRY400


def _remove_deleted(is_any_left: Callable[[Session], bool], remove_some: Callable[[Session], bool]) -> None:
    with read_scope() as s:
        if not is_any_left(s):
            return
    for _ in range(BATCHES):
        with session_scope() as s:
            if not remove_some(s):
                return


def reap_and_log() -> None:
    """Carry out one round of the reaper, or log why no file may be removed."""
    try:
        log.info("files were reaped", extra=asdict(reap()))
    except (ForeignStorage, TooManyOrphans) as error:
        log.warning("no file is reaped: %s", error)


def reap_until(stop: threading.Event) -> None:
    """Reap again and again, whatever fails, until the event is set."""
    _repeat_until(stop, reap_and_log, current().reap_every_seconds, "reaping")


def finish_until(stop: threading.Event) -> None:
    """End jobs again and again, whatever fails, until the event is set."""
    _repeat_until(stop, finish_jobs, current().sweep_seconds, "ending jobs")


def _repeat_until(stop: threading.Event, act: Callable[[], None], every: float, name: str) -> None:
    retry = seconds = current().sweep_seconds
    while not stop.wait(seconds):
        try:
            act()
            seconds = every
        except (SQLAlchemyError, OSError) as error:
            log.warning("%s failed", name, extra={"error": type(error).__name__})
            seconds = retry
        except Exception:  # nobody would start this thread again
            log.exception("%s failed", name)
            seconds = retry


def main() -> None:
    """Sweep until a signal stops this process."""
    os.umask(0o077)  # stored files are for this user alone
    logs.configure("sweep")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    scrub.start(stop)
    settings = current()
    # Reaping lists all files, and ending a large job takes minutes. Nothing waits for them.
    for name, act in (("reaper", reap_until), ("finisher", finish_until)):
        threading.Thread(target=act, args=(stop,), name=name, daemon=True).start()
    watch = LeaseWatch()
    while not stop.is_set():
        try:
            sweep(watch)
        except (SQLAlchemyError, OSError) as error:  # database or storage is unreachable; try again next round
            log.warning("sweep failed", extra={"error": type(error).__name__})
        stop.wait(settings.sweep_seconds)


if __name__ == "__main__":
    main()
