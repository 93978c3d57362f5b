"""Two model versions on the same slices: which slices, asked for, and what it came to."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from db import TEST
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationError
from db.models import Dataset, Evaluation, ModelVersion, Split, User, Work
from db.training.lineage import flattered, held_out


@dataclass(frozen=True)
class Pair:
    """Two versions and the slices to compare them on: the test part of `split`, or without one the whole dataset."""

    version: ModelVersion
    other: ModelVersion
    dataset: Dataset
    split: Split | None

    @property
    def part(self) -> str | None:
        """The part of the split, where there is one."""
        return TEST if self.split else None


@dataclass(frozen=True)
class Comparison:
    """A comparison as people see it; `state` queued, running, finished or failed.

    `figures`: by name both sides (`candidate` is the first version, `champion` the other), their difference and its
    95 % interval. `notes`: who was trained on some of the slices.
    """

    model_version: str
    with_model: str
    dataset: str
    part: str | None
    state: str
    slices: int | None = None
    groups: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def pair_of(s: Session, version: ModelVersion, other: ModelVersion, dataset: Dataset | None = None) -> Pair:
    """The two on a whole dataset, or where none is named on the first one's test part.

    Raises EvaluationError: they are the same, or the first has no test part here.
    """
    if version.id == other.id:
        raise EvaluationError(f"{version.label} and {other.label} are the same model version")
    if dataset is not None:
        return Pair(version, other, dataset, None)
    if (split := held_out(s, version)) is None:
        raise EvaluationError(f"{version.label} has no test part in this database: name a dataset to compare them on")
    return Pair(version, other, split.dataset, split)


def request(s: Session, pair: Pair, user: User | None = None, *, notify: bool = True) -> list[Evaluation]:
    """The evaluations of both, the same for the same ask (see `evaluations.request`). Raises EvaluationError."""
    where: dict[str, Any] = {"dataset": pair.dataset, "split": pair.split, "part": pair.part}
    both = (pair.version, pair.other)
    return [evaluations.request(s, version=each, **where, user=user, notify=notify) for each in both]


def comparison_of(s: Session, pair: Pair) -> Comparison | None:
    """What the comparison came to so far; None if it was never asked for."""
    where: dict[str, Any] = {"dataset": pair.dataset, "split": pair.split, "part": pair.part}
    own = evaluations.find(s, version=pair.version, **where)
    theirs = evaluations.find(s, version=pair.other, **where)
    if own is None or theirs is None:
        return None
    known: dict[str, Any] = {"model_version": pair.version.label, "with_model": pair.other.label}
    known |= {"dataset": pair.dataset.label, "part": pair.part}
    for each in (own, theirs):
        if each.state == Work.FAILED:
            return Comparison(**known, state="failed", error=f"{each.model_version.label}: {each.error}")
    if own.state != Work.DONE or theirs.state != Work.DONE:
        queued = own.state == theirs.state == Work.READY
        return Comparison(**known, state="queued" if queued else "running")
    if not (figures := own.result.get("against", {}).get(pair.other.label)):
        gone = f"the scores of {pair.version.label} or {pair.other.label} are gone"
        return Comparison(**known, state="failed", error=f"{gone}: ask for the comparison again")
    known |= {"slices": own.result.get("n"), "groups": own.result.get("groups"), "figures": figures}
    notes = flattered(s, [pair.version, pair.other], pair.dataset.id, pair.split, pair.part)
    return Comparison(**known, state="finished", notes=notes)
