"""Carries out evaluations in this process, with a progress bar, or waits for the worker that claimed them."""

from cli.errors import JobFailed
from cli.local.follow import follow
from cli.local.session import reading
from cli.output import Update
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationView
from db.models import Evaluation


def carry_out(evaluation_id: int, *, quiet: bool = False) -> EvaluationView:
    """Carry out the evaluation, and return it. If a worker does this already, wait for the worker.

    Raises:
        JobFailed: the evaluation failed.
    """
    from training.evaluation.evaluate_version import evaluate_next  # loads the libraries that compute
    from worker.process import worker_name

    def look(update: Update) -> EvaluationView:
        evaluate_next(worker_name(), evaluation_id, lambda fraction: update(fraction, ""))
        return _view(evaluation_id)

    view = _view(evaluation_id)
    part = f" ({view.part})" if view.part else ""
    return follow(f"evaluation of {view.model_version} on {view.dataset}{part}", look, _note, quiet=quiet)


def _note(view: EvaluationView) -> str:
    return "" if view.state == "finished" else view.error or "a worker is running it"


def _view(evaluation_id: int) -> EvaluationView:
    with reading() as session:
        evaluation = session.get(Evaluation, evaluation_id)
        if evaluation is None:
            raise JobFailed(f"evaluation {evaluation_id} is gone from the database")
        return evaluations.evaluation_view(evaluation)
