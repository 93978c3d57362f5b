"""Evaluations of model versions on datasets: asked for, claimed under a lease, reported on, ended.

On the same slices versions can be compared in pairs: whoever ends an evaluation puts the comparison with every
version that was evaluated there before into both results, under `against` by the other's label.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from db import PARTS, broker
from db.broker import Queue
from db.clock import from_now
from db.database import lock_row
from db.ledger import leases
from db.ledger.leases import Claim
from db.models import Dataset, Evaluation, ModelVersion, Split, User, Work
from db.storage import storage

STATES = {Work.READY: "queued", Work.DONE: "finished"}
MAX_CLAIMS = 3  # an evaluation whose worker died so often is given up


class EvaluationError(Exception):
    """This cannot be evaluated; one line for people says why."""


@dataclass(frozen=True)
class EvaluationView:
    """An evaluation as people see it; `state` queued, running, finished or failed, `progress` from 0 to 1."""

    id: int
    state: str
    progress: float
    model_version: str
    dataset: str
    part: str | None
    result: dict[str, Any]
    error: str | None
    created_at: datetime
    finished_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON: times in RFC 3339."""
        return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()}


def request(
    s: Session,
    *,
    version: ModelVersion,
    dataset: Dataset,
    split: Split | None = None,
    part: str | None = None,
    user: User | None = None,
    notify: bool = True,
) -> Evaluation:
    """The evaluation of this version on these slices, the same for the same ask.

    One that failed, or whose scores are gone from storage, is carried out again.

    `notify=False` sends no message, for who carries it out at once.

    Raises EvaluationError: the dataset is not ready, or there is no such part.
    """
    if dataset.state != Work.DONE:
        why = dataset.error or "it is still being built"
        raise EvaluationError(f"the dataset {dataset.label} cannot be used: {why}")
    if (split is None) != (part is None) or (part is not None and part not in PARTS):
        raise EvaluationError(f"a part of a split is {', '.join(PARTS)}; not {part}")
    if split is not None and split.dataset_id != dataset.id:
        raise EvaluationError(f"the split {split.id} is of another dataset than {dataset.label}")
    lock_slices(s, dataset.id)  # two that ask at once get one row; NULL is no duplicate of NULL to a unique key
    if (found := find(s, version=version, dataset=dataset, split=split, part=part)) is None:
        found = Evaluation(model_version_id=version.id, dataset_id=dataset.id, part=part)
        found.split_id = split.id if split else None
        found.user_id = user.id if user else None
        s.add(found)
        s.flush()
    elif found.state == Work.FAILED or (found.scores_sha256 and not storage().exists(found.scores_sha256)):
        _try_again(s, found)
    else:
        return found
    if notify:
        broker.wake_after_commit(s, Queue.EVALUATION)
    return found


def _try_again(s: Session, evaluation: Evaluation) -> None:
    fresh: dict[str, Any] = {"state": Work.READY, "attempts": 0, "error": None, "progress": 0.0}
    fresh |= {"scores_sha256": None, "published_at": from_now()}
    s.execute(update(Evaluation).where(Evaluation.id == evaluation.id).values(**fresh))
    s.refresh(evaluation)


def lock_slices(s: Session, dataset_id: int) -> None:
    """Let only one transaction at a time ask for, or end, an evaluation on this dataset."""
    lock_row(s, Dataset, dataset_id)


def find(
    s: Session, *, version: ModelVersion, dataset: Dataset, split: Split | None = None, part: str | None = None
) -> Evaluation | None:
    """The evaluation of this version on these slices, if it was ever asked for."""
    query = select(Evaluation).where(
        Evaluation.model_version_id == version.id,
        Evaluation.dataset_id == dataset.id,
        Evaluation.split_id.is_(None) if split is None else Evaluation.split_id == split.id,
        Evaluation.part.is_(None) if part is None else Evaluation.part == part,
    )
    return s.scalar(query.order_by(Evaluation.id).limit(1))


def find_evaluation(s: Session, evaluation_id: int) -> Evaluation | None:
    """The evaluation of this id."""
    return s.get(Evaluation, evaluation_id)


def of_version(s: Session, version: ModelVersion) -> list[Evaluation]:
    """All evaluations of a model version, newest first."""
    query = select(Evaluation).where(Evaluation.model_version_id == version.id)
    return list(s.scalars(query.order_by(Evaluation.id.desc())))


def evaluation_view(evaluation: Evaluation) -> EvaluationView:
    """The evaluation as people see it."""
    return EvaluationView(
        id=evaluation.id,
        state=STATES.get(Work(evaluation.state), evaluation.state),
        progress=evaluation.progress,
        model_version=evaluation.model_version.label,
        dataset=evaluation.dataset.label,
        part=evaluation.part,
        result=evaluation.result,
        error=evaluation.error,
        created_at=evaluation.created_at,
        finished_at=evaluation.finished_at,
    )


def claim(s: Session, worker: str, evaluation_id: int | None = None) -> tuple[Evaluation, Claim] | None:
    """Claim the oldest evaluation that waits, or whose worker is gone; with an id, that one or none."""
    query = select(Evaluation).where(leases.claimable(Evaluation)).order_by(Evaluation.id).limit(1)
    if evaluation_id is not None:
        query = query.where(Evaluation.id == evaluation_id)
    found = s.scalar(leases.locked(query, s, of=Evaluation))
    if found is None or (taken := leases.take(s, Evaluation, found.id, worker)) is None:
        return None
    s.refresh(found)
    s.refresh(found, ["split"])  # for where no session is open
    return found, taken


def report(s: Session, claim: Claim, progress: float) -> None:
    """Note how far an evaluation is. Raises StaleClaim."""
    if not leases.keep(s, Evaluation, claim):
        raise leases.StaleClaim(f"evaluation {claim.id}")
    s.execute(update(Evaluation).where(Evaluation.id == claim.id).values(progress=progress))


def done_beside(s: Session, evaluation: Evaluation) -> list[Evaluation]:
    """The finished evaluations of other versions on the same slices."""
    query = select(Evaluation).where(
        Evaluation.dataset_id == evaluation.dataset_id,
        Evaluation.split_id.is_(None) if evaluation.split_id is None else Evaluation.split_id == evaluation.split_id,
        Evaluation.part.is_(None) if evaluation.part is None else Evaluation.part == evaluation.part,
        Evaluation.state == Work.DONE,
        Evaluation.model_version_id != evaluation.model_version_id,
    )
    return list(s.scalars(query.order_by(Evaluation.id)))


def finish(
    s: Session,
    claim: Claim,
    scores_sha256: str,
    result: Mapping[str, Any],
    against: Mapping[int, Mapping[str, Any]],
) -> bool:
    """Record scores and result, and the comparisons with `done_beside`, by that evaluation's id, in both results.

    False, with nothing done, where one of those is missing from `against`: it ended meanwhile. Raises StaleClaim.
    """
    own = s.get_one(Evaluation, claim.id)
    lock_slices(s, own.dataset_id)
    others = done_beside(s, own)
    if any(other.id not in against for other in others):
        return False
    pairs = {other.model_version.label: against[other.id] for other in others}
    values = {"result": {**result, "against": pairs}, "scores_sha256": scores_sha256, "progress": 1.0}
    leases.close(s, Evaluation, claim, Work.DONE, **values, error=None, finished_at=from_now())
    for other in others:
        theirs = {**other.result.get("against", {}), own.model_version.label: mirrored(against[other.id])}
        other.result = {**other.result, "against": theirs}
    return True


def mirrored(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison seen from the other side: whose figure was the champion's is the candidate now."""
    return {
        name: {
            "candidate": one["champion"],
            "champion": one["candidate"],
            "difference": _negated(one["difference"]),
            "low": _negated(one["high"]),
            "high": _negated(one["low"]),
        }
        for name, one in comparison.items()
    }


def _negated(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def fail(s: Session, claim: Claim, error: str) -> None:
    """The evaluation cannot be done, and why. Raises StaleClaim."""
    leases.close(s, Evaluation, claim, Work.FAILED, error=error, finished_at=from_now())


def give_back(s: Session, claim: Claim) -> None:
    """Put it back for another worker: whoever carries it out was told to stop. That is no try. Raises StaleClaim."""
    leases.give_back(s, Evaluation, claim, attempts=Evaluation.attempts - 1)


def put_off(s: Session, claim: Claim) -> None:
    """Put it back for a while: the database was away. That is no try of it. Raises StaleClaim."""
    leases.put_off(s, Evaluation, claim, attempts=Evaluation.attempts - 1)
