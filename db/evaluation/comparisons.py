"""Compares two model versions on the same slices."""

from dataclasses import dataclass
from functools import partial

from pydantic import Field
from sqlalchemy.orm import Session

from db import TEST
from db.access.audit import Action, record
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationError
from db.evaluation.result import PairedMetric
from db.evaluation.rule import uneven_groups
from db.models import Dataset, Evaluation, ModelVersion, Split, User, Work
from db.models.kept import Kept
from db.registry.versions import shared_precision
from db.training.caveats import optimism_notes
from db.training.lineage import training_split_of


@dataclass(frozen=True)
class Pair:
    """Two versions, and the slices to compare them on: the test part of `split`, or the whole dataset."""

    version: ModelVersion
    other: ModelVersion
    dataset: Dataset
    split: Split | None

    @property
    def precision(self) -> str | None:
        """The precision in which both versions are measured, or None if no engine can run both."""
        return shared_precision([self.version, self.other])

    @property
    def part(self) -> str | None:
        """The part of the split that is used, or None without a split."""
        return TEST if self.split else None


class Comparison(Kept):
    """A comparison for people. `state`: queued, running, finished or failed.

    `figures`: each metric of both versions, `model_version` first. `engine`: the engine that measured both, or None
    if it is not the same. Then a note names the two engines. `notes` also say which version was trained on some of the
    slices.
    """

    model_version: str
    with_model: str
    dataset: str
    dataset_deleted: bool
    part: str | None
    state: str
    slices: int | None = None
    groups: int | None = None
    named_groups: int | None = None
    class_groups: dict[str, int] = Field(default_factory=dict)
    engine: str | None = None
    figures: dict[str, PairedMetric] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    error: str | None = None


def pair_of(s: Session, version: ModelVersion, other: ModelVersion, dataset: Dataset | None = None) -> Pair:
    """Pair two versions for a comparison on `dataset`. None means the test part of the first version's split.

    Raises EvaluationError: the two versions are the same, or the test part is not in this database.
    """
    if version.id == other.id:
        raise EvaluationError(f"{version.label} and {other.label} are the same model version")
    if dataset is not None:
        return Pair(version, other, dataset, None)
    if (split := training_split_of(s, version)) is None:
        raise EvaluationError(f"{version.label} has no test part in this database: name a dataset to compare them on")
    return Pair(version, other, split.dataset, split)


def request(s: Session, pair: Pair, user: User | None = None, *, notify: bool = True) -> list[Evaluation]:
    """Request the evaluations of both versions with `evaluations.request`, and return them.

    If the dataset is deleted, and both evaluations are done, request nothing. Raises EvaluationError.
    """
    record(s, Action.MODEL_COMPARE, f"model {pair.version.label}", f"model {pair.other.label}")
    done = [one for one in _evaluations(s, pair) if one is not None and one.state == Work.DONE]
    if pair.dataset.deleted_at is not None and len(done) == len((pair.version, pair.other)):
        return done
    return [
        evaluations.request(
            s,
            version=version,
            dataset=pair.dataset,
            split=pair.split,
            part=pair.part,
            precision=pair.precision,
            user=user,
            notify=notify,
        )
        for version in (pair.version, pair.other)
    ]


def _evaluations(s: Session, pair: Pair) -> list[Evaluation | None]:
    """Return the evaluations of both versions. One is None if it was never requested."""
    where = partial(
        evaluations.find, s, dataset=pair.dataset, split=pair.split, part=pair.part, precision=pair.precision
    )
    return [where(version=version) for version in (pair.version, pair.other)]


def comparison_of(s: Session, pair: Pair) -> Comparison | None:
    """Return the comparison in its present state, or None if it was never requested."""
    own, theirs = _evaluations(s, pair)
    if own is None or theirs is None:
        return None
    queued = own.state == theirs.state == Work.READY
    comparison = Comparison(
        model_version=pair.version.label,
        with_model=pair.other.label,
        dataset=pair.dataset.label,
        dataset_deleted=pair.dataset.deleted_at is not None,
        part=pair.part,
        state="queued" if queued else "running",
    )
    for evaluation in (own, theirs):
        if evaluation.state == Work.FAILED:
            error = f"{evaluation.model_version.label}: {evaluation.error}"
            return comparison.model_copy(update={"state": "failed", "error": error})
    result, other_result = evaluations.result_of(own), evaluations.result_of(theirs)
    if result is None or other_result is None:
        return comparison
    if not (metrics := result.against.get(pair.other.label)):
        error = f"the scores of {pair.version.label} or {pair.other.label} are gone"
        if pair.dataset.deleted_at is None:
            error += ": ask for the comparison again"
        else:
            error += f", and {pair.dataset.label} is deleted: choose another dataset"
        return comparison.model_copy(update={"state": "failed", "error": error})
    notes = optimism_notes(s, [pair.version, pair.other], pair.dataset.id, pair.split, pair.part)
    engine = result.engine if result.engine == other_result.engine else None
    if engine is None:
        engines = f"{pair.version.label} by {result.engine}, {pair.other.label} by {other_result.engine}"
        notes = [f"they were measured by different engines: {engines}", *notes]
    notes += uneven_groups(result)
    measured = {name: getattr(result, name) for name in ("groups", "named_groups", "class_groups")}
    done = {"state": "finished", "slices": result.n, "engine": engine, "figures": metrics, "notes": notes, **measured}
    return comparison.model_copy(update=done)
