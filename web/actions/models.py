"""Promotes, compares, checks and imports model versions, for the API and the pages."""

from sqlalchemy.orm import Session

from db.database import read_scope, session_scope
from db.datasets import datasets
from db.evaluation import comparisons, evaluations, promotion
from db.evaluation.comparisons import Comparison, Pair
from db.evaluation.evaluations import EvaluationError, EvaluationView
from db.evaluation.gate import PENDING, Gate, gate_of, request_gate
from db.evaluation.promotion import GateClosed, RollbackRefused
from db.models import Dataset, ModelVersion, User
from db.registry import transfer, versions
from db.registry.demo_model import DemoModelDamaged
from db.registry.transfer import PackageRefused
from web.actions.lookup import row_of
from web.actions.uploads import only_part, part_path
from web.errors import Problem, sentence
from web.security.auth import check_again
from worker.hdf5 import check_weights
from worker.imaging.display_names import display_name
from worker.imaging.recipe import RECIPE

REASON_LENGTH = 500


def promote(user: User, version_id: int, reason: str, *, force: bool, champion: str | None = None) -> None:
    """Make a version the champion, if the gate allows it.

    `champion`: as `champion_seen` of `promotion.promote`. If another version is the champion by now, the version is not
    promoted.

    If the version was not compared with the champion yet, request the comparison. Raises Problem 404, and 409 with the
    gate's metrics as `gate`.
    """
    with read_scope() as s:
        gate = gate_of(s, row_of(s, ModelVersion, version_id))
    try:
        with session_scope() as s:
            version = row_of(s, ModelVersion, version_id)
            promotion.promote(s, version, user, tidy(reason), gate, force=force, champion_seen=champion)
    except GateClosed as error:
        if gate.verdict == PENDING:
            compare(user, version_id)
        raise Problem(409, "gate-closed", _refusal(gate, error), gate=gate.as_dict()) from error


def _refusal(gate: Gate, error: GateClosed) -> str:
    queued = " The comparison is queued. Look again once it is done." if gate.verdict == PENDING else ""
    return sentence(error) + queued


def compare(user: User, version_id: int) -> None:
    """Request the evaluations that the gate needs. Raises Problem 404, 409."""
    try:
        with session_scope() as s:
            request_gate(s, row_of(s, ModelVersion, version_id), user)
    except EvaluationError as error:
        raise Problem(409, "conflict", sentence(error)) from error


def promote_demo(user: User) -> int:
    """Make the demo model the champion if there is none. Return the champion's id. Raises Problem 503."""
    try:
        label = promotion.promote_demo_model(RECIPE, user)
    except DemoModelDamaged as error:
        raise Problem(503, "demo-model-damaged", sentence(error)) from error
    with read_scope() as s:
        version = versions.find_version(s, label)
    if version is None:
        raise Problem(404, "not-found", f"There is no model version {label}.")
    return version.id


def roll_back(user: User, reason: str, champion: str | None = None) -> int:
    """Make the previous champion the champion again, and return its id.

    `champion`: the label of the champion that the user saw, or None. Raises Problem 409: there is another champion now,
    there is no earlier champion, or the reason is missing.
    """
    try:
        with session_scope() as s:
            return promotion.rollback(s, user, tidy(reason), champion_seen=champion).id
    except RollbackRefused as error:
        raise Problem(409, "conflict", sentence(error)) from error


def check_site(user: User, version_id: int, dataset: str) -> EvaluationView:
    """Request the site check of a version on a labelled dataset. Raises Problem 404, 409, 422."""
    try:
        with session_scope() as s:
            version = row_of(s, ModelVersion, version_id)
            evaluation = evaluations.request_check(s, version=version, dataset=_dataset(s, dataset), user=user)
            return evaluations.evaluation_view(evaluation)
    except EvaluationError as error:
        raise Problem(409, "conflict", sentence(error)) from error


def import_version() -> tuple[int, bool]:
    """Receive an exported version from this request. Return its id in this database, and whether it is new.

    Raises Problem 413, 415, 422: there is no file, or it is not a package that can be imported. In these cases nothing
    is kept. Raises Problem 401 or 403: the user may no longer do this.
    """
    part = only_part("one exported model version")
    try:
        received = transfer.import_package(part_path(part), RECIPE, check_weights)
    except PackageRefused as error:
        reason = error.__cause__ if isinstance(error.__cause__, Exception) else error  # without a temporary name
        filename = display_name(part.filename or "unnamed")
        raise Problem(422, "package-refused", sentence(reason), file=filename) from error
    with session_scope() as s:
        check_again(s)
        version, new = transfer.register_received(s, received)
        return version.id, new


def tidy(reason: str) -> str:
    """Return a reason in the form in which it is stored: one printable line of limited length."""
    return display_name(" ".join(reason.split()))[:REASON_LENGTH]


def compare_with(user: User, version_id: int, with_model: str, dataset: str) -> Comparison | None:
    """Request the comparison of a version with another one.

    `dataset`: the dataset to compare on. If empty, compare on the test part of the first version's split. If it is
    deleted, return a finished comparison. Raises Problem 404, 409, 422 (no such version or dataset).
    """
    try:
        with session_scope() as s:
            pair = _pair(s, version_id, with_model, dataset)
            comparisons.request(s, pair, user)
            return comparisons.comparison_of(s, pair)
    except EvaluationError as error:
        raise Problem(409, "conflict", sentence(error)) from error


def compared(version_id: int, with_model: str, dataset: str) -> Comparison | None:
    """Return the results of a comparison so far, or None if it was never requested or is not possible."""
    try:
        with read_scope() as s:
            return comparisons.comparison_of(s, _pair(s, version_id, with_model, dataset))
    except (EvaluationError, Problem):
        return None


def _pair(s: Session, version_id: int, other: str, dataset: str) -> Pair:
    version, other_version = row_of(s, ModelVersion, version_id), versions.find_version(s, display_name(other))
    if other_version is None:
        raise Problem(422, "invalid", f"There is no model version {display_name(other)}. Choose one from the list.")
    sample = _dataset(s, dataset, even_deleted=True) if dataset else None
    return comparisons.pair_of(s, version, other_version, sample)


def _dataset(s: Session, name: str, *, even_deleted: bool = False) -> Dataset:
    dataset = datasets.find_dataset(s, display_name(name), even_deleted=even_deleted)
    if dataset is None:
        raise Problem(422, "invalid", f"There is no dataset {display_name(name)}. Choose one from the list.")
    return dataset
