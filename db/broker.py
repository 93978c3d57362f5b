"""The broker: the Celery apps, the queues, and messages that are sent once a transaction has committed."""

import logging
import time
from enum import StrEnum
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy.orm import Session

from db.crash_points import crash_point
from db.database import after_commit, current

log = logging.getLogger(__name__)

HOUR = 3600
SEND_SECONDS = 2.0  # the longest wait of a sender for an answer
PAUSE_SECONDS = 10.0  # after such a wait, nothing is sent for this long


class Queue(StrEnum):
    """The queues, one for each kind of work. The task that serves a queue has the queue's name."""

    INGEST = "ingest"
    INFERENCE = "inference"
    DATASETS = "datasets"
    TRAINING = "training"
    EVALUATION = "evaluation"


def make_celery(name: str, *, acks_late: bool = True) -> Celery:
    """Return a Celery app that uses the broker of the settings. It stores no results, because the database has them.

    The ledger, not the broker, guarantees that work is done. The settings here only make lost messages rare and
    restarts quick.
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
_paused_until: dict[str, float] = {}  # by the broker's URL, on the monotonic clock


def _sender() -> Celery:
    url = current().broker_url
    if url not in _senders:
        _senders[url] = make_celery("ctbatch")
        _senders[url].conf.broker_transport_options |= {
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0,
            "socket_timeout": SEND_SECONDS,
            "socket_connect_timeout": SEND_SECONDS,
        }
    return _senders[url]


def wake(queue: Queue) -> bool:
    """Send a message that there is work for this queue. Return whether the broker accepted it.

    The message has no data. It may be lost, late or doubled, because only the rows matter, and the sweeper sends lost
    messages again. Nothing is sent if the settings name no broker, as for commands on a machine without one. If the
    broker does not answer in time, nothing is sent for some seconds, so that a broker that hangs delays little work.
    """
    url, now = current().broker_url, time.monotonic()
    if not url or now < _paused_until.get(url, now):
        return False
    sender, begun = _sender(), time.monotonic()
    try:
        sender.send_task(queue, queue=queue, retry=False, ignore_result=True)
    except (OperationalError, RedisError, OSError) as error:
        if time.monotonic() - begun >= SEND_SECONDS:
            _paused_until[url] = time.monotonic() + PAUSE_SECONDS
        log.warning("broker unreachable, message not sent", extra={"queue": queue, "error": type(error).__name__})
        return False
    return True


def wake_after_commit(session: Session, queue: Queue) -> None:
    """Send a message after the session's transaction commits. Send none if it rolls back."""
    if "wake" not in session.info:
        session.info["wake"] = []
        after_commit(session, lambda: _wake_all(session.info.pop("wake")))
    session.info["wake"].append(queue)


def _wake_all(queues: list[Queue]) -> None:
    """Send the messages of a transaction. Stop at the first failure, because the others would fail too."""
    for queue in queues:
        crash_point("after-commit-before-publish")
        if not wake(queue):
            break


def waiting(queue: Queue) -> int:
    """Return how many messages wait in a queue. Raises kombu's OperationalError when the broker is unreachable."""
    with _sender().connection_for_read() as connection:
        channel: Any = connection.default_channel
        return int(channel.client.llen(queue))


def ping(timeout: float = 1.0) -> None:
    """Raise ConnectionError unless the broker answers."""
    url = current().broker_url.replace("redis+socket://", "unix://")
    try:
        client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
        client.ping()
        client.close()
    except RedisError as error:
        raise ConnectionError(f"the broker does not answer: {type(error).__name__}") from error
