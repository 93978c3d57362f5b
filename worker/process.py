"""What every Celery worker process does when it starts: logs, its own connections, and an end with its parent."""

import ctypes
import os
import signal
from typing import Any

from celery import signals

from db import logs
from db.database import current, forget_connections

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, so that a killed worker leaves no child behind."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def worker_name() -> str:
    """How a claim names its holder."""
    return f"{os.uname().nodename}:{os.getpid()}"


def prepare(default_role: str) -> None:
    """Attach to Celery's signals: logging, fork hygiene, and the file that says a worker is ready."""
    role = os.environ.get("CTBATCH_ROLE", default_role)

    def _logging(**_: Any) -> None:
        logs.configure(role)

    def _child(**_: Any) -> None:
        die_with_parent()
        forget_connections()

    def _ready(**_: Any) -> None:
        settings = current()
        settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (settings.run_dir / f"{role}.ready").touch()

    signals.setup_logging.connect(_logging, weak=False)
    signals.worker_process_init.connect(_child, weak=False)
    signals.worker_ready.connect(_ready, weak=False)
