"""From a request to another champion, a site check, an imported version: the same for the API and for the pages."""

from typing import Any

from sqlalchemy.orm import Session

from db.database import read_scope, session_scope
from db.datasets import datasets
from db.evaluation import comparisons, evaluations, promotion
from db.evaluation.comparisons import Comparison, Pair
from db.evaluation.evaluations import EvaluationError
from db.evaluation.gate import PENDING, Gate, gate_of, request_gate
from db.evaluation.promotion import GateClosed
from db.models import ModelVersion, User
from db.registry import champions, demo_model, transfer, versions
from db.registry.champions import RollbackRefused
from db.registry.demo_model import DemoModelDamaged
from db.registry.transfer import PackageRefused
from web.actions.lookup import row_of
from web.actions.uploads import FIELD, check_multipart, file_parts, part_path
from web.errors import Problem, sentence
from worker.imaging.display_names import display_name
from worker.imaging.recipe import RECIPE

REASON_LENGTH = 500


def promote(user: User, version_id: int, reason: str, *, force: bool) -> None:
    """Make a version the champion, if the gate lets it.

    Where it was not compared with the champion yet, the comparison is asked for now. Raises Problem 404, and 409 with
    the gate's figures as `gate`.
    """
    with read_scope() as s:
        gate = gate_of(s, row_of(s, ModelVersion, version_id))
    try:
        with session_scope() as s:
            version = row_of(s, ModelVersion, version_id)
            promotion.promote(s, version, user, tidy(reason), gate, force=force)
    except GateClosed as error:
        if gate.verdict == PENDING:
            compare(user, version_id)
        raise Problem(409, "gate-closed", _refusal(gate, error), gate=gate.as_dict()) from error


def _refusal(gate: Gate, error: GateClosed) -> str:
    queued = " The comparison is queued: look again once it is done." if gate.verdict == PENDING else ""
    return sentence(error) + queued


def compare(user: User, version_id: int) -> None:
    """Ask for the evaluations that the gate needs. Raises Problem 404, 409."""
    try:
        with session_scope() as s:
            request_gate(s, row_of(s, ModelVersion, version_id), user)
    except EvaluationError as error:
        raise Problem(409, "conflict", sentence(error)) from error


def promote_demo(user: User) -> int:
    """Make the demo model the champion where there is none; the champion's id. Raises Problem 503."""
    try:
        label = demo_model.promote_demo_model(RECIPE, user)
    except DemoModelDamaged as error:
        raise Problem(503, "demo-model-damaged", sentence(error)) from error
    with read_scope() as s:
        version = versions.find_version(s, label)
    if version is None:
        raise Problem(404, "not-found", f"There is no model version {label}.")
    return version.id


def roll_back(user: User, reason: str, champion: str | None = None) -> int:
    """Make the champion before the present one the champion again; its id. `champion`: the label of the present one, as
    far as the user was shown it. Raises Problem 409, without a reason too."""
    try:
        with session_scope() as s:
            return champions.rollback(s, user, tidy(reason), champion_seen=champion).id
    except RollbackRefused as error:
        raise Problem(409, "conflict", sentence(error)) from error


def check_site(user: User, version_id: int, dataset: str) -> dict[str, Any]:
    """Ask for the check of a version on a labelled dataset; as JSON. Raises Problem 404, 409, 422."""
    try:
        with session_scope() as s:
            version = row_of(s, ModelVersion, version_id)
            found = datasets.find_dataset(s, display_name(dataset))
            if found is None:
                raise Problem(422, "invalid", f"There is no dataset {display_name(dataset)}.")
            evaluation_id = evaluations.request(s, version=version, dataset=found, user=user).id
    except EvaluationError as error:
        raise Problem(409, "conflict", sentence(error)) from error
    with read_scope() as s:
        found_evaluation = evaluations.find_evaluation(s, evaluation_id)
        return evaluations.evaluation_view(found_evaluation).as_dict() if found_evaluation else {}


def import_version() -> tuple[int, bool]:
    """Receive an exported version from this request; its id here, and whether it is new.

    Raises Problem 413, 415, 422: there is no file, or it is no package that can be imported; then nothing is kept.
    """
    check_multipart()
    parts = file_parts(FIELD)
    if len(parts) != 1:
        raise Problem(422, "no-files", "Send one exported model version, in a part named 'files'.")
    try:
        received = transfer.import_package(part_path(parts[0]), RECIPE)
    except PackageRefused as error:
        why = error.__cause__ if isinstance(error.__cause__, Exception) else error  # without the temporary file's name
        filename = display_name(parts[0].filename or "unnamed")
        raise Problem(422, "package-refused", sentence(why), file=filename) from error
    with session_scope() as s:
        version, new = transfer.register_received(s, received)
        return version.id, new


def tidy(reason: str) -> str:
    """A reason as it is kept: one line, printable, of bounded length."""
    return display_name(" ".join(reason.split()))[:REASON_LENGTH]


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
    version, found = row_of(s, ModelVersion, version_id), versions.find_version(s, display_name(other))
    if found is None:
        raise Problem(422, "invalid", f"There is no model version {display_name(other)}.")
    on = datasets.find_dataset(s, display_name(dataset)) if dataset else None
    if dataset and on is None:
        raise Problem(422, "invalid", f"There is no dataset {display_name(dataset)}.")
    return comparisons.pair_of(s, version, found, on)
