"""The Celery tasks of training and evaluation workers; the second kind also builds datasets.

Each loads what it needs, TensorFlow above all, when it is first called.
"""

from db.broker import Queue
from training.app import app
from worker.process import worker_name


@app.task(name=Queue.TRAINING)
def train() -> None:
    """Carry out the training run whose turn it is."""
    from training.run import train_next

    train_next(worker_name())


@app.task(name=Queue.EVALUATION)
def evaluate() -> None:
    """Carry out the evaluation whose turn it is."""
    from training.evaluation.evaluate_version import evaluate_next

    evaluate_next(worker_name())


@app.task(name=Queue.DATASETS)
def build_dataset() -> None:
    """Build the dataset whose turn it is."""
    from worker.datasets.build import build_next

    build_next(worker_name())
