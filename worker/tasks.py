"""Celery tasks of ingest and inference workers. A message says that there is work; the rows say which work is next."""

import os
from typing import Any

from celery import signals

from db.broker import Queue
from worker.app import app
from worker.process import worker_name


@signals.worker_process_init.connect
def start_process(**_: Any) -> None:
    """Get an ingest process ready for its first job. Let an inference process note that it runs."""
    if os.environ.get("CTBATCH_ROLE") == Queue.INGEST:
        from worker.jobs.ingest import get_ready

        get_ready()
    elif os.environ.get("CTBATCH_ROLE") == Queue.INFERENCE:
        from worker.jobs import presence

        presence.start()


@app.task(name=Queue.INGEST)
def ingest() -> None:
    """Unpack the next upload. Then start a fresh decoder ahead, because the next upload may have another owner."""
    from worker.jobs.ingest import start_decoder, unpack_next

    if unpack_next(worker_name()):
        start_decoder()


@app.task(name=Queue.INFERENCE)
def predict() -> None:
    """Predict the next chunks."""
    from worker.jobs.predict import predict_next

    predict_next(worker_name())
