"""Hooks that gunicorn's main process calls before the workers start, and after a worker has ended."""

import os
import shutil
from pathlib import Path
from typing import Any


def on_starting(_arbiter: Any) -> None:
    """Empty the folder of shared counters, because its files are from workers before this start."""
    if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(mode=0o700, parents=True)


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Remove those metrics of an ended worker that count only while a worker lives."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client.multiprocess import mark_process_dead

        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
