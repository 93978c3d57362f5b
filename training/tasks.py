"""The Celery tasks of training. Each loads what it needs, TensorFlow above all, when it is first called."""

from training.app import app
from worker.process import worker_name


@app.task(name="train")
def train(id: int) -> None:
    """Carry out the training run whose turn it is."""
    from training.run import train_next

    train_next(worker_name())


@app.task(name="evaluate")
def evaluate(id: int) -> None:
    """Carry out the evaluation whose turn it is."""
    from training.evaluation.evaluate_version import evaluate_next

    evaluate_next(worker_name())
