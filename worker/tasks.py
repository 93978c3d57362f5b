"""Celery tasks of ingest and inference workers: a message says that there is work, the rows say whose turn it is."""

import os
from typing import Any

from celery import signals

from db.broker import Queue
from worker.app import app
from worker.process import worker_name


@signals.worker_process_init.connect
def start_process(**_: Any) -> None:
    """Import what an ingest process needs, and start a decoder: its first job need not wait for them."""
    if os.environ.get("CTBATCH_ROLE") == Queue.INGEST:
        from worker.jobs.ingest import get_ready

        get_ready()


@app.task(name=Queue.INGEST)
def ingest() -> None:
    """Unpack the upload whose turn it is, and start a decoder for the next owner."""
    from worker.jobs.ingest import start_decoder, unpack_next

    if unpack_next(worker_name()):
        start_decoder()


@app.task(name=Queue.INFERENCE)
def predict() -> None:
    """Predict the chunks whose turn it is."""
    from worker.jobs.predict import predict_next

    predict_next(worker_name())
