"""The promotion gate: whether a candidate may take the champion's place.

The rule. Candidate and champion are measured on the same slices, the test part of the candidate's own split. Notes say
which of them was trained on some of these slices, and on how many. The candidate is refused

- if its sensitivity there, as measured, is below its floor (`facts.floor`, by default 0.85: of seven positive slices
  one may be missed). The measured value counts, not the upper end of its interval: on a small test part the interval is
  so wide that any candidate would pass. A candidate that chance alone put below the floor costs an admin a reason; one
  that misses disease costs more;
- if it is worse than the champion beyond chance: the whole 95 % interval of the difference in AUC, accuracy or
  sensitivity, by resampling the same groups for both, is below zero.

An imported version is promoted only after an engine of it has passed its trial or its proof on a machine here
(`worker.engines.trial`). No reason overrides that: its jobs would fail.

There is nothing to compare on without a champion, without a test part of the candidate here (it was imported, or is the
demo), or with a test part of one group. Then the promotion needs a reason. An admin may override a refusal with one.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from sqlalchemy.orm import Session

from db import TEST
from db.evaluation import evaluations
from db.evaluation.evaluations import result_of
from db.evaluation.result import Interval, PairedMetric, PairedMetrics
from db.metrics import METRICS, Difference, difference_of, written_interval
from db.models import Evaluation, ModelVersion, Split, User, Work
from db.models.kept import Kept
from db.registry import champions, engine_proofs
from db.training.lineage import optimism_notes, training_split_of

DEFAULT_FLOOR = 0.85
NOT_WORSE_IN = ("auc", "accuracy", "recall")
PASSED, REFUSED, NOTHING, PENDING = "passed", "refused", "nothing to compare on", "not compared yet"
UNPROVEN = "not proven here"


class Gate(Kept):
    """The gate's verdict on a candidate, and what it rests on. `figures`: each metric of candidate and champion."""

    verdict: str
    candidate: str
    champion: str | None = None
    reasons: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    dataset: str | None = None
    slices: int | None = None
    groups: int | None = None
    floor: float = DEFAULT_FLOOR
    sensitivity: float | None = None
    sensitivity_interval: Interval = None
    figures: dict[str, PairedMetric] = Field(default_factory=dict)

    def but(self, verdict: str, reasons: Sequence[str], **fields: Any) -> "Gate":
        """Return this gate with a verdict, its reasons, and other fields."""
        return self.model_copy(update={"verdict": verdict, "reasons": list(reasons), **fields})


def objections(metrics: PairedMetrics, sensitivity: float | None, floor: float) -> list[str]:
    """Return why a candidate is refused by the rule above, a line each; an empty list if it is not."""
    reasons = []
    if sensitivity is None:
        reasons.append("the test part holds no COVID slice: its sensitivity is not known")
    elif sensitivity < floor:
        reasons.append(f"its sensitivity of {sensitivity:.3f} is below the floor of {floor:.3f}")
    for key in NOT_WORSE_IN:
        if (pair := metrics.get(key)) is None:
            continue
        if (difference := difference_of(key, pair.low, pair.high)) == Difference.WORSE:
            interval = written_interval(pair.low, pair.high, "+")
            reasons.append(f"its {METRICS[key].name} is {difference}: the difference is {interval}")
    return reasons


def floor_of(version: ModelVersion) -> float:
    """Return the sensitivity below which a version is not promoted."""
    return DEFAULT_FLOOR if version.facts.floor is None else version.facts.floor


def gate_of(s: Session, version: ModelVersion) -> Gate:
    """Return the gate's verdict by the evaluations that are done; `not compared yet` if one is missing."""
    champion, split = champions.champion(s), training_split_of(s, version)
    label = champion.label if champion else None
    gate = Gate(verdict=NOTHING, candidate=version.label, champion=label, floor=floor_of(version))
    if champion is not None and champion.id == version.id:
        return gate.but(NOTHING, ["it is the champion already"])
    if why := engine_proofs.why_not_proven(s, version):
        return gate.but(UNPROVEN, [why])
    if split is None:
        return gate.but(NOTHING, ["its training left no test part in this database"])
    return _judged(s, gate.but(NOTHING, [], dataset=split.dataset.label), version, champion, split)


def _judged(s: Session, gate: Gate, version: ModelVersion, champion: ModelVersion | None, split: Split) -> Gate:
    """Return the gate's verdict by the test part of the candidate's split."""
    own = evaluations.find(s, version=version, dataset=split.dataset, split=split, part=TEST)
    if (result := result_of(own)) is None:
        return gate.but(PENDING, _what_is_missing(own, version))
    gate = gate.model_copy(
        update={
            "slices": result.n,
            "groups": result.groups,
            "sensitivity": result.recall,
            "sensitivity_interval": result.intervals.get("recall"),
        }
    )
    if champion is None:
        reasons = objections({}, gate.sensitivity, gate.floor)
        notes = optimism_notes(s, [version], split.dataset_id, split, TEST)
        return gate.but(REFUSED if reasons else NOTHING, reasons or ["there is no champion"], notes=notes)
    theirs = evaluations.find(s, version=champion, dataset=split.dataset, split=split, part=TEST)
    if result_of(theirs) is None:
        return gate.but(PENDING, _what_is_missing(theirs, champion))
    metrics = result.against.get(champion.label)
    if not metrics:
        return gate.but(PENDING, ["the scores of one of the two are gone: they could not be compared"])
    notes = optimism_notes(s, [version, champion], split.dataset_id, split, TEST) + _not_compared(metrics)
    if reasons := objections(metrics, gate.sensitivity, gate.floor):
        return gate.but(REFUSED, reasons, notes=notes, figures=metrics)
    if all(metrics[key].low is None for key in NOT_WORSE_IN):
        reasons = ["the test part is one group, which says nothing about others"]
        return gate.but(NOTHING, reasons, notes=notes, figures=metrics)
    return gate.but(PASSED, [], notes=notes, figures=metrics)


def _not_compared(metrics: PairedMetrics) -> list[str]:
    """Return a note on the metrics whose difference has no interval, unless none has: `objections` skips them."""
    names = [METRICS[key].name for key in NOT_WORSE_IN if key not in metrics or metrics[key].low is None]
    some = 0 < len(names) < len(NOT_WORSE_IN)
    return [f"too few groups (patients) of a class to estimate chance in: {', '.join(names)}"] if some else []


def _what_is_missing(evaluation: Evaluation | None, version: ModelVersion) -> list[str]:
    if evaluation is not None and evaluation.state == Work.FAILED:
        return [f"the evaluation of {version.label} failed: {evaluation.error}"]
    return [f"{version.label} is not evaluated on it yet"]


def request_gate(
    s: Session, version: ModelVersion, user: User | None = None, *, notify: bool = True
) -> list[Evaluation]:
    """Request the evaluations that `gate_of` needs, those that failed once more, and return what is not done yet.

    `notify=False` sends no message, for callers that carry them out at once.

    Raises evaluations.EvaluationError if the dataset cannot be used.
    """
    champion, split = champions.champion(s), training_split_of(s, version)
    if split is None or (champion is not None and champion.id == version.id):
        return []
    versions = [version] if champion is None else [version, champion]
    requested = [
        evaluations.request(s, version=one, dataset=split.dataset, split=split, part=TEST, user=user, notify=notify)
        for one in versions
    ]
    return [evaluation for evaluation in requested if evaluation.state != Work.DONE]
