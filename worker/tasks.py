"""Celery tasks of ingest and inference workers: a message says that there is work, the rows say whose turn it is."""

from db.broker import Queue
from worker.app import app
from worker.process import worker_name


@app.task(name=Queue.INGEST)
def ingest() -> None:
    """Unpack the upload whose turn it is."""
    from worker.jobs.ingest import unpack_next

    unpack_next(worker_name())


@app.task(name=Queue.INFERENCE)
def predict() -> None:
    """Predict the chunks whose turn it is."""
    from worker.jobs.predict import predict_next

    predict_next(worker_name())
