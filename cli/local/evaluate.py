"""Evaluations carried out in the foreground, with a bar, or watched where a worker has them already."""

import time

from cli.errors import JobFailed
from cli.local.session import reading
from cli.output import progress_bar
from db.evaluation import evaluations
from db.models import Evaluation

POLL_SECONDS = 0.5


def carry_out(evaluation_id: int, *, quiet: bool = False) -> Evaluation:
    """Return the evaluation once it is done, by this process unless a worker is at it.

    Raises:
        JobFailed: it failed, and why.
    """
    from training.evaluation.evaluate_version import (
        evaluate_next,  # loads what computes only where something is computed
    )
    from worker.process import worker_name

    found = _look(evaluation_id)
    title = f"{found.model_version.label} on {found.dataset.label}" + (f" ({found.part})" if found.part else "")
    with progress_bar(title, 1.0, enabled=not quiet) as update:
        while True:
            view = evaluations.evaluation_view(found)
            if view.state == "finished":
                update(1.0, "")
                return found
            if view.state == "failed":
                raise JobFailed(f"{title} could not be evaluated: {view.error}")
            if not evaluate_next(worker_name(), evaluation_id, lambda fraction: update(fraction, "")):
                update(view.progress, "a worker is at it")
                time.sleep(POLL_SECONDS)
            found = _look(evaluation_id)


def _look(evaluation_id: int) -> Evaluation:
    with reading() as session:
        found = evaluations.find_evaluation(session, evaluation_id)
        if found is None:
            raise JobFailed(f"evaluation {evaluation_id} is gone from the database")
        return found
