"""From a request to two model versions compared on the same slices: the same for the API and for the page."""

from typing import Any

from sqlalchemy.orm import Session

from db import comparisons, datasets, registry
from db.base import read_scope, session_scope
from db.comparisons import Comparison, Pair
from db.evaluations import EvaluationError
from db.models import ModelVersion, User
from web.errors import Problem, sentence
from web.lookup import row_of
from worker.imaging.names import label


def compare_with(user: User, version_id: int, with_model: str, dataset: str) -> dict[str, Any]:
    """Have a version compared with another one; as JSON. An empty `dataset`: on the first one's test part.

    Raises Problem 404, 409, 422 (no such version or dataset).
    """
    try:
        with session_scope() as s:
            pair = _pair(s, version_id, with_model, dataset)
            comparisons.request(s, pair, user)
            found = comparisons.comparison_of(s, pair)
    except EvaluationError as error:
        raise Problem(409, "conflict", sentence(error)) from error
    return found.as_dict() if found else {}


def compared(version_id: int, with_model: str, dataset: str) -> Comparison | None:
    """What a comparison came to so far; None where it was never asked for or cannot be."""
    try:
        with read_scope() as s:
            return comparisons.comparison_of(s, _pair(s, version_id, with_model, dataset))
    except (EvaluationError, Problem):
        return None


def _pair(s: Session, version_id: int, other: str, dataset: str) -> Pair:
    version, found = row_of(s, ModelVersion, version_id), registry.find_version(s, label(other))
    if found is None:
        raise Problem(422, "invalid", f"There is no model version {label(other)}.")
    on = datasets.find_dataset(s, label(dataset)) if dataset else None
    if dataset and on is None:
        raise Problem(422, "invalid", f"There is no dataset {label(dataset)}.")
    return comparisons.pair_of(s, version, found, on)
