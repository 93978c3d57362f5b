"""Prepares every Celery worker process.

Sets up the process's logs, drops the connections of its parent, and ends the process when its parent ends. Passes a
request to stop on to the processes of the worker.
"""

import os
from typing import Any

from celery import signals

from db import logs
from db.broker import Queue, wake
from db.database import current, forget_connections, keep_database_open
from worker.heartbeat import stop_request
from worker.linux_process import come_after_others, die_with_parent, end_only_for

INGEST_NICE = 5
"""An engine that has slices comes first on a busy core. While it waits, ingest has all cores."""


def worker_name() -> str:
    """Return the name under which this process claims work."""
    return f"{os.uname().nodename}:{os.getpid()}"


def prepare(default_role: str) -> None:
    """Connect functions to Celery's signals.

    The functions set up logging, prepare each forked process, and write the file `ROLE.ready` when the worker is ready.
    """
    os.umask(0o077)  # stored files are for this user alone
    role, parent = os.environ.get("CTBATCH_ROLE", default_role), os.getpid()

    def _logging(**_: Any) -> None:
        logs.configure(role)

    def _child(**_: Any) -> None:
        die_with_parent(parent)
        end_only_for(parent)
        if role == Queue.INGEST:
            come_after_others(INGEST_NICE)
        forget_connections()
        keep_database_open()

    def _ready(**_: Any) -> None:
        settings = current()
        settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (settings.run_dir / f"{role}.ready").touch()
        if role == Queue.INFERENCE:
            wake(Queue.INFERENCE)  # if no work waits, the worker loads the champion's engine

    def _stopping(**_: Any) -> None:
        stop_request.set()  # Celery itself waits for the end of each task, however long it takes

    signals.setup_logging.connect(_logging, weak=False)
    signals.worker_process_init.connect(_child, weak=False)
    signals.worker_ready.connect(_ready, weak=False)
    signals.worker_shutting_down.connect(_stopping, weak=False)
