"""Celery tasks: a message is a hint that there is work; what is done is the work whose turn it is."""

from worker.app import app
from worker.process import worker_name


@app.task(name="unpack-upload")
def unpack_upload(id: int) -> None:
    """Unpack the upload whose turn it is, or build a dataset."""
    from worker.datasets.build import ingest_next

    ingest_next(worker_name())


@app.task(name="build-dataset")
def build_dataset(id: int) -> None:
    """Unpack the upload whose turn it is, or build a dataset."""
    from worker.datasets.build import ingest_next

    ingest_next(worker_name())


@app.task(name="predict-chunk")
def predict_chunk(id: int) -> None:
    """Predict the chunks whose turn it is."""
    from worker.jobs.predict import predict_next

    predict_next(worker_name())
