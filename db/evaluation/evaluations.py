"""Evaluations of model versions on datasets: requests, claims, reports, finishes and finds them.

Versions are compared in pairs on the same slices. When an evaluation ends, it is compared with each finished evaluation
of another version on these slices. Both results store the comparison in `against`, by the label of the other version.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import PARTS, broker
from db.access.audit import Action, record
from db.broker import Queue
from db.clock import from_now
from db.database import lock_row
from db.datasets.datasets import lock_kept
from db.datasets.slices import DatasetGone
from db.evaluation.result import EvaluationResult, PairedMetric, PairedMetrics
from db.findings.rules import rule_of
from db.ledger import leases
from db.ledger.leases import Claim
from db.ledger.views import Moment, View
from db.models import Dataset, Evaluation, ModelVersion, Split, User, Work
from db.registry import engine_proofs
from db.training.lineage import tuning_dataset

STATES = {Work.READY: "queued", Work.DONE: "finished"}
MAX_CLAIMS = 3  # after so many workers have died while they held an evaluation, it fails


class EvaluationError(Exception):
    """The evaluation is not possible. The message says why."""


EvaluationState = Annotated[
    str, WithJsonSchema({"type": "string", "enum": ["queued", "running", "finished", "failed"]})
]


class EvaluationView(View):
    """An evaluation of a model version on a dataset. On a whole dataset it is a site check with a verdict."""

    id: int
    state: EvaluationState
    progress: float
    model_version: str
    dataset: str
    dataset_deleted: bool = Field(description="The dataset was deleted. Its results stay.")
    part: str | None
    precision: str | None = Field(description="The requested precision of the engine. Null: the engine that serves.")
    result: dict[str, Any]
    error: str | None
    created_at: Moment
    finished_at: Moment | None


def request(
    s: Session,
    *,
    version: ModelVersion,
    dataset: Dataset,
    split: Split | None = None,
    part: str | None = None,
    precision: str | None = None,
    user: User | None = None,
    notify: bool = True,
) -> Evaluation:
    """Request the evaluation of a version on these slices, and return it. The same request gives the same evaluation.

    `precision`: the precision of the engine that must score. None means the engine that serves on the machine that
    carries out the evaluation. An evaluation that failed, or whose scores are lost, is carried out again.
    `notify=False` sends no message, for callers that carry out the evaluation at once.

    Raises EvaluationError: the dataset is not ready or deleted, or the split has no part of this name.
    """
    if dataset.state != Work.DONE:
        why = dataset.error or "it is still being built"
        raise EvaluationError(f"the dataset {dataset.label} cannot be used: {why}")
    if (split is None) != (part is None) or (part is not None and part not in PARTS):
        raise EvaluationError(f"{part} is not a part of a split; choose one of {', '.join(PARTS)}")
    if split is not None and split.dataset_id != dataset.id:
        raise EvaluationError(f"the split {split.id} does not belong to the dataset {dataset.label}")
    try:
        lock_kept(s, dataset.id)  # a unique key cannot prevent a second row, because NULL does not equal NULL
    except DatasetGone as error:
        raise EvaluationError(str(error)) from None
    evaluation = find(s, version=version, dataset=dataset, split=split, part=part, precision=precision)
    if evaluation is None:
        evaluation = Evaluation(model_version_id=version.id, dataset_id=dataset.id, part=part, precision=precision)
        evaluation.split_id = split.id if split else None
        evaluation.user_id = user.id if user else None
        s.add(evaluation)
        s.flush()
    elif evaluation.state == Work.FAILED or (evaluation.state == Work.DONE and evaluation.scores_sha256 is None):
        _try_again(s, evaluation)
    else:
        return evaluation
    if notify:
        broker.wake_after_commit(s, Queue.EVALUATION)
    return evaluation


def request_check(
    s: Session, *, version: ModelVersion, dataset: Dataset, user: User | None = None, notify: bool = True
) -> Evaluation:
    """Request a site check, which is the evaluation of a version on a whole dataset by the engine that serves.

    It is carried out again if its metrics of groups were computed with another rule of findings than the present rule
    of the version, or if another engine has begun to serve here since (`engine_proofs.serving_since`).

    Raises EvaluationError as `request` does.
    """
    evaluation = request(s, version=version, dataset=dataset, user=user, notify=notify)
    record(s, Action.MODEL_CHECK, f"model {version.label}", f"dataset {dataset.label}")
    result = result_of(evaluation)
    if result is not None and not (_is_by_present_rule(s, result, version) and _is_by_engine(s, result, evaluation)):
        _try_again(s, evaluation)
        if notify:
            broker.wake_after_commit(s, Queue.EVALUATION)
    return evaluation


def _is_by_present_rule(s: Session, result: EvaluationResult, version: ModelVersion) -> bool:
    """Return whether the version's present rule gave the metrics of groups. Return True if there are none.

    If the dataset on which the rule was tuned was deleted since, the metrics still count, because they say how many of
    the slices the rule was tuned on.

    Do not read slices, because this takes seconds for large datasets, and other writers may have to wait.
    """
    if (groups := result.by_group) is None:
        return True
    rule = rule_of(version, result.engine)
    tuned_on = {tuning_dataset(s, rule), rule.tuned.dataset_hash if rule.tuned else None}
    return groups.rule == rule.untuned and groups.tuned_on in tuned_on


def _is_by_engine(s: Session, result: EvaluationResult, evaluation: Evaluation) -> bool:
    """Return whether no other engine than that of the result has begun to serve here since it was computed."""
    serving = engine_proofs.serving_since(s, evaluation.model_version, evaluation.finished_at)
    return not serving or result.engine in serving


def _try_again(s: Session, evaluation: Evaluation) -> None:
    s.execute(
        update(Evaluation)
        .where(Evaluation.id == evaluation.id)
        .values(
            state=Work.READY,
            attempts=0,
            put_offs=0,
            error=None,
            progress=0.0,
            scores_sha256=None,
            published_at=from_now(),
        )
    )
    s.refresh(evaluation)


def forget_scores(s: Session, evaluation: Evaluation) -> None:
    """Note that the scores of an evaluation are lost, so that the next request computes them again."""
    lost = Evaluation.id == evaluation.id, Evaluation.scores_sha256 == evaluation.scores_sha256
    s.execute(update(Evaluation).where(*lost).values(scores_sha256=None))


def find(
    s: Session,
    *,
    version: ModelVersion,
    dataset: Dataset,
    split: Split | None = None,
    part: str | None = None,
    precision: str | None = None,
) -> Evaluation | None:
    """Return the evaluation of a version on these slices, or None if it was never requested."""
    query = select(Evaluation).where(
        Evaluation.model_version_id == version.id,
        Evaluation.dataset_id == dataset.id,
        Evaluation.split_id == (split.id if split else None),
        Evaluation.part == part,
        Evaluation.precision == precision,
    )
    return s.scalar(query.order_by(Evaluation.id).limit(1))


def of_version(s: Session, version: ModelVersion) -> list[Evaluation]:
    """Return all evaluations of a model version, newest first."""
    query = select(Evaluation).where(Evaluation.model_version_id == version.id)
    return list(s.scalars(query.order_by(Evaluation.id.desc())))


def evaluation_view(evaluation: Evaluation) -> EvaluationView:
    """Return the view of an evaluation for people."""
    return EvaluationView(
        id=evaluation.id,
        state=STATES.get(Work(evaluation.state), evaluation.state),
        progress=evaluation.progress,
        model_version=evaluation.model_version.label,
        dataset=evaluation.dataset.label,
        dataset_deleted=evaluation.dataset.deleted_at is not None,
        part=evaluation.part,
        precision=evaluation.precision,
        result=evaluation.result,
        error=evaluation.error,
        created_at=evaluation.created_at,
        finished_at=evaluation.finished_at,
    )


def claim(s: Session, worker: str, evaluation_id: int | None = None) -> tuple[Evaluation, Claim] | None:
    """Claim the oldest evaluation that is due or, with an id, only that one. Return None if nothing can be claimed."""
    query = select(Evaluation).where(leases.due(Evaluation)).order_by(Evaluation.id).limit(1)
    if evaluation_id is not None:
        leases.free_expired(s, Evaluation, evaluation_id)  # a person waits, and perhaps no sweeper runs
        query = query.where(Evaluation.id == evaluation_id)
    evaluation = s.scalar(leases.locked(query, s, of=Evaluation))
    if evaluation is None or (taken := leases.take(s, Evaluation, evaluation.id, worker)) is None:
        return None
    s.refresh(evaluation)
    s.refresh(evaluation, ["split"])  # loaded now, for use after the session is closed
    return evaluation, taken


def report(s: Session, claim: Claim, progress: float) -> None:
    """Record the progress of an evaluation. Raises StaleClaim."""
    if not leases.keep(s, Evaluation, claim):
        raise leases.StaleClaim(f"evaluation {claim.id}")
    s.execute(update(Evaluation).where(Evaluation.id == claim.id).values(progress=progress))


def done_beside(s: Session, evaluation: Evaluation) -> list[Evaluation]:
    """Return the finished evaluations of other versions on the same slices in the same precision."""
    query = select(Evaluation).where(
        Evaluation.dataset_id == evaluation.dataset_id,
        Evaluation.split_id == evaluation.split_id,
        Evaluation.part == evaluation.part,
        Evaluation.precision == evaluation.precision,
        Evaluation.state == Work.DONE,
        Evaluation.model_version_id != evaluation.model_version_id,
    )
    return list(s.scalars(query.order_by(Evaluation.id)))


def finish(
    s: Session, claim: Claim, scores_sha256: str, result: EvaluationResult, against: Mapping[int, PairedMetrics]
) -> bool:
    """Record the scores and the result of an evaluation. Add each comparison to the results of both evaluations.

    `against`: the comparison with each evaluation of `done_beside`, by its id. If one is missing because it has ended
    meanwhile, record nothing and return False. Raises StaleClaim.
    """
    own = s.get_one(Evaluation, claim.id)
    lock_row(s, Dataset, own.dataset_id)  # only one transaction at a time requests or ends evaluations on it
    others = done_beside(s, own)
    if any(other.id not in against for other in others):
        return False
    pairs = {other.model_version.label: dict(against[other.id]) for other in others}
    values = {"result": _with_pairs(result, pairs), "scores_sha256": scores_sha256, "progress": 1.0}
    leases.close(s, Evaluation, claim, Work.DONE, **values, error=None, finished_at=from_now())
    for other in others:
        mirrored = {name: metric.swapped() for name, metric in against[other.id].items()}
        other.result = _with_pairs(EvaluationResult(**other.result), {own.model_version.label: mirrored})
    return True


def _with_pairs(result: EvaluationResult, pairs: dict[str, dict[str, PairedMetric]]) -> dict[str, Any]:
    return result.model_copy(update={"against": {**result.against, **pairs}}).as_json()


def result_of(evaluation: Evaluation | None) -> EvaluationResult | None:
    """Return the result of an evaluation that is done, or None."""
    if evaluation is None or evaluation.state != Work.DONE:
        return None
    return EvaluationResult(**evaluation.result)


def fail(s: Session, claim: Claim, error: str) -> None:
    """End an evaluation as failed, with the reason. Raises StaleClaim."""
    leases.close(s, Evaluation, claim, Work.FAILED, error=error, finished_at=from_now())


def give_back(s: Session, claim: Claim) -> None:
    """Give an interrupted evaluation back to the queue, for another worker. Raises StaleClaim.

    The claim does not count as an attempt.
    """
    leases.give_back(s, Evaluation, claim, attempts=Evaluation.attempts - 1)


def put_off(s: Session, claim: Claim, reason: str, *, is_attempt: bool = False) -> None:
    """Put off an evaluation because something is not available now. Raises StaleClaim.

    `is_attempt`: count the claim as an attempt.
    """
    leases.put_off(s, Evaluation, claim, is_attempt=is_attempt, error=f"put off: {reason}")
