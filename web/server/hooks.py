"""gunicorn's hooks: what its first process does before and after its workers."""

import os
import shutil
from pathlib import Path
from typing import Any


def on_starting(_arbiter: Any) -> None:
    """Empty the folder in which the workers count together: what is there was counted by workers of earlier starts."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(mode=0o700, parents=True)


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Drop what stands for a worker only while it lives."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
