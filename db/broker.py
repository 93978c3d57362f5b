"""Celery's side: the apps, the names of queues and tasks, and sending a hint once its transaction has committed."""

import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy.orm import Session

from db.database import after_commit, current

log = logging.getLogger(__name__)

HOUR = 3600


class Queue(StrEnum):
    """One queue for each kind of worker."""

    INGEST = "ingest"
    INFERENCE = "inference"
    TRAINING = "training"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class Hint:
    """A message that says where there may be work; it carries one id and may be lost, late or doubled."""

    task: str
    queue: Queue
    id: int


def unpack_hint(upload_id: int) -> Hint:
    """There is an upload to unpack."""
    return Hint("unpack-upload", Queue.INGEST, upload_id)


def predict_hint(chunk_id: int) -> Hint:
    """There is a chunk to predict."""
    return Hint("predict-chunk", Queue.INFERENCE, chunk_id)


def build_hint(dataset_id: int) -> Hint:
    """There is a dataset to build."""
    return Hint("build-dataset", Queue.INGEST, dataset_id)


def train_hint(run_id: int) -> Hint:
    """There is a training run to carry out."""
    return Hint("train", Queue.TRAINING, run_id)


def evaluate_hint(evaluation_id: int) -> Hint:
    """There is an evaluation of a model version to carry out."""
    return Hint("evaluate", Queue.EVALUATION, evaluation_id)


def make_celery(name: str, *, acks_late: bool = True) -> Celery:
    """A Celery app on the settings' broker. It keeps no results: SQL has them.

    The ledger, not the broker, guarantees that work is done; these settings make a lost message rare and a
    restart quick.
    """
    app = Celery(name, set_as_current=False)
    app.conf.update(
        broker_url=current().broker_url or "redis://127.0.0.1:6379/0",
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=acks_late,
        task_reject_on_worker_lost=False,
        task_default_queue=Queue.INGEST,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=30.0,
        worker_proc_alive_timeout=120.0,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 6 * HOUR,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 3,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "health_check_interval": 25,
        },
    )
    return app


_senders: dict[str, Celery] = {}


def _sender() -> Celery:
    url = current().broker_url
    if url not in _senders:
        _senders[url] = make_celery("ctbatch")
        # Whoever sends a hint does not wait for a broker that is away.
        _senders[url].conf.broker_transport_options |= {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    return _senders[url]


def send(hint: Hint) -> bool:
    """Send one message now. A broker that is away is no error: the row is there and the sweeper sends it again."""
    try:
        _sender().send_task(hint.task, kwargs={"id": hint.id}, queue=hint.queue, retry=False, ignore_result=True)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("broker away, hint not sent", extra={"task": hint.task, "error": type(error).__name__})
        return False
    return True


def send_after_commit(session: Session, hint: Hint) -> None:
    """Send the message once the session's transaction has committed; not at all if it does not."""
    if "hints" not in session.info:
        session.info["hints"] = []
        after_commit(session, lambda: _send_all(session.info.pop("hints")))
    session.info["hints"].append(hint)


def _send_all(hints: list[Hint]) -> None:
    """Send a transaction's messages, up to the first that fails: each would wait for the same broker."""
    from db.crash_points import crash_point

    for hint in hints:
        crash_point("after-commit-before-publish")
        if not send(hint):
            break


def waiting(queue: Queue) -> int:
    """How many messages wait in a queue. Raises kombu's OperationalError when the broker is away."""
    with _sender().connection_for_read() as connection:
        channel: Any = connection.default_channel
        return int(channel.client.llen(queue))


def ping(timeout: float = 1.0) -> None:
    """Raise ConnectionError unless the broker answers."""
    import redis

    url = current().broker_url
    url = url.replace("redis+socket://", "unix://")
    try:
        client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        client.ping()
        client.close()
    except RedisError as error:
        raise ConnectionError(f"the broker does not answer: {type(error).__name__}") from error
