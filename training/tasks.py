"""The Celery tasks of training and evaluation workers. Evaluation workers also build datasets.

Each task loads its libraries, such as TensorFlow, when it is first called.
"""

from db.broker import Queue
from training.app import app
from worker.process import worker_name


@app.task(name=Queue.TRAINING)
def train() -> None:
    """Carry out the next training run."""
    from training.run import train_next

    train_next(worker_name())


@app.task(name=Queue.EVALUATION)
def evaluate() -> None:
    """Carry out the next evaluation."""
    from training.evaluation.evaluate_version import evaluate_next

    evaluate_next(worker_name())


@app.task(name=Queue.DATASETS)
def build_dataset() -> None:
    """Build the next dataset."""
    from worker.datasets.build import build_next

    build_next(worker_name())
