"""The promotion gate, which decides whether a candidate may become the champion. `db.evaluation.rule` states the rule.

Candidate and champion are measured on the test part of the candidate's own split, in the same precision. Notes state
which of the two versions was trained on some of these slices, and how many candidates were tested on these slices
before.

An imported version is promoted only after an engine has passed its trial or proof with it on a machine of this
installation (`worker.engines.trial`). No reason overrides this, because jobs with the version would fail.

The verdict is `nothing to compare on` if there is no champion, if the candidate's test part is not in this database
(for example of an imported version or the demo model), or if no engine can run both. A promotion needs a reason, except
if the candidate passed. With a reason, an admin may override a refusal or a missing evaluation.

If the dataset was deleted, finished evaluations still count. If an evaluation is missing, the verdict is then
`cannot be compared`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import Field
from sqlalchemy.orm import Session

from db import TEST
from db.access.audit import Action, record
from db.database import current
from db.evaluation import evaluations
from db.evaluation.evaluations import result_of
from db.evaluation.result import EvaluationResult, Interval, PairedMetric
from db.evaluation.rule import (
    FLOORED,
    NOT_SHOWN,
    REFUSED,
    Floors,
    Seen,
    below_floors,
    few_for_margin,
    rule,
    uneven_groups,
    worst_metric,
)
from db.metrics import METRICS, written, written_interval
from db.models import Evaluation, ModelVersion, Split, User, Work
from db.models.kept import Kept
from db.registry import champions, engine_proofs
from db.registry.versions import shared_precision
from db.training.caveats import optimism_notes, why_unknown
from db.training.lineage import candidate_number, known_in_test, training_split_of

DEFAULT_FLOOR = Floors.recall
NOTHING, PENDING, UNPROVEN = "nothing to compare on", "not compared yet", "not proven here"
INCOMPARABLE = "cannot be compared"


class FloorCheck(Kept):
    """A floor, the measured value that must reach it, and the 95 % interval of the value."""

    floor: float
    value: float | None
    interval: Interval = None


class Gate(Kept):
    """The gate's verdict on a candidate, and the facts behind it.

    `figures`: each metric of candidate and champion. `engine`: the engine that measured both, or "" if it is not the
    same. `margin`: how much worse the candidate may be. `candidate_number`: the candidate's place among the versions
    that were trained on the same split, from 1. `floor`, `sensitivity` and `sensitivity_interval` repeat values of
    `floors`.
    """

    verdict: str
    candidate: str
    champion: str | None = None
    reasons: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    dataset: str | None = None
    dataset_deleted: bool = False
    slices: int | None = None
    groups: int | None = None
    named_groups: int | None = None
    class_groups: dict[str, int] = Field(default_factory=dict)
    engine: str = ""
    margin: float | None = None
    candidate_number: int | None = None
    floors: dict[str, FloorCheck] = Field(default_factory=dict)
    floor: float = DEFAULT_FLOOR
    sensitivity: float | None = None
    sensitivity_interval: Interval = None
    figures: dict[str, PairedMetric] = Field(default_factory=dict)

    def but(self, verdict: str, reasons: Sequence[str], **fields: Any) -> "Gate":
        """Return a copy of this gate with another verdict, its reasons, and other fields."""
        return self.model_copy(update={"verdict": verdict, "reasons": list(reasons), **fields})

    @property
    def worst(self) -> str:
        """Describe the metric in which the candidate may be furthest behind the champion, or return ""."""
        if (key := worst_metric(self.figures)) is None:
            return ""
        pair = self.figures[key]
        interval = written_interval(pair.low, pair.high, "+")
        return f"{METRICS[key].name} {written(pair.first)}, {written(pair.difference, '+')} ({interval})"


def floors_of(version: ModelVersion) -> Floors:
    """Return the floors that a version must reach. Its training run may have set the floor of the sensitivity.

    The file of an imported version can raise this floor, but not lower it.
    """
    if (stated := version.facts.floor) is None:
        return Floors()
    return Floors(recall=stated if version.facts.imported is None else max(stated, DEFAULT_FLOOR))


def gate_of(s: Session, version: ModelVersion) -> Gate:
    """Return the gate with its verdict. The verdict is `not compared yet` until the necessary evaluations are done.

    If every running worker refuses the version, a note says so, because jobs with the version would wait.
    """
    gate = _gate(s, version)
    if gate.verdict == UNPROVEN or (refusal := engine_proofs.refusal(s, version)) is None:
        return gate
    return gate.but(gate.verdict, gate.reasons, notes=[*gate.notes, refusal])


def _gate(s: Session, version: ModelVersion) -> Gate:
    champion, split = champions.champion(s), training_split_of(s, version)
    label, margin = champion.label if champion else None, current().promotion_margin
    floor = floors_of(version).recall
    gate = Gate(verdict=NOTHING, candidate=version.label, champion=label, floor=floor, margin=margin)
    if champion is not None and champion.id == version.id:
        return gate.but(NOTHING, ["it is the champion already"])
    if why := engine_proofs.why_not_proven(s, version):
        return gate.but(UNPROVEN, [why])
    if split is None:
        return gate.but(NOTHING, ["the test part of its split is not in this database"])
    facts = {"dataset": split.dataset.label, "dataset_deleted": split.dataset.deleted_at is not None}
    gate = gate.but(NOTHING, [], candidate_number=candidate_number(s, version), **facts)
    return _judged(s, gate, version, champion, split)


def _judged(s: Session, gate: Gate, version: ModelVersion, champion: ModelVersion | None, split: Split) -> Gate:
    """Return the gate with its verdict, by the evaluations on the test part of the candidate's split."""
    both = [version] if champion is None else [version, champion]
    precision = shared_precision(both)
    missing = INCOMPARABLE if gate.dataset_deleted else PENDING
    done: list[EvaluationResult] = []
    for one in both:
        evaluation = evaluations.find(
            s, version=one, dataset=split.dataset, split=split, part=TEST, precision=precision
        )
        if (result := result_of(evaluation)) is None:
            why = _deleted(split, one) if gate.dataset_deleted else _missing(evaluation, one)
            return (_measured(gate, version, done[0]) if done else gate).but(missing, why)
        done.append(result)
    engine = done[0].engine if len({one.engine for one in done}) == 1 else ""
    gate = _measured(gate, version, done[0]).model_copy(update={"engine": engine})
    notes = optimism_notes(s, both, split.dataset_id, split, TEST) + _count_note(gate)
    notes += uneven_groups(done[0])
    if champion is None:
        reasons = below_floors(done[0], floors_of(version))
        return gate.but(REFUSED if reasons else NOTHING, reasons or ["there is no champion"], notes=notes)
    if precision is None and done[0].engine != done[1].engine:
        engines = f"{version.label} was measured by {done[0].engine}, {champion.label} by {done[1].engine}"
        return gate.but(NOTHING, [f"no engine runs both: {engines}"], notes=notes)
    if not (pairs := done[0].against.get(champion.label)):
        return gate.but(missing, ["the two cannot be compared: the scores of one of them are gone"])
    known = 0 if gate.dataset_deleted else known_in_test(s, version, split)
    seen = Seen(known, done[0].n or 0, why_unknown(s, version, split))
    ruling = rule(done[0], pairs, floors_of(version), current().promotion_margin, seen)
    if ruling.verdict == NOT_SHOWN:
        notes += few_for_margin(done[0], current().promotion_margin)
    return gate.but(ruling.verdict, ruling.reasons, notes=notes, figures=pairs)


def _measured(gate: Gate, version: ModelVersion, result: EvaluationResult) -> Gate:
    """Return the gate with the measured values of the candidate."""
    floors = floors_of(version)
    checks = {
        key: FloorCheck(floor=getattr(floors, key), value=getattr(result, key), interval=result.intervals.get(key))
        for key in FLOORED
    }
    measured = {
        "slices": result.n,
        "groups": result.groups,
        "named_groups": result.named_groups,
        "class_groups": result.class_groups,
        "floors": checks,
        "sensitivity": result.recall,
        "sensitivity_interval": result.intervals.get("recall"),
    }
    return gate.model_copy(update=measured)


def _count_note(gate: Gate) -> list[str]:
    """Return a note if other candidates were tested on the same slices before."""
    number = gate.candidate_number or 1
    if number < 2:
        return []
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return [f"it is the {number}{ending} version trained on this split: the best of several looks better than it is"]


def _missing(evaluation: Evaluation | None, version: ModelVersion) -> list[str]:
    if evaluation is not None and evaluation.state == Work.FAILED:
        return [f"the evaluation of {version.label} failed: {evaluation.error}"]
    return [f"{version.label} is not evaluated on it yet"]


def _deleted(split: Split, version: ModelVersion) -> list[str]:
    return [f"{split.dataset.label} is deleted, so {version.label} cannot be evaluated on it any more"]


def request_gate(
    s: Session, version: ModelVersion, user: User | None = None, *, notify: bool = True
) -> list[Evaluation]:
    """Request the evaluations that `gate_of` needs, and return those that are not done yet.

    Evaluations that failed are requested again. If the dataset was deleted, nothing is requested. `notify=False` sends
    no message, for callers that carry out the evaluations at once.

    Raises evaluations.EvaluationError if the dataset cannot be used.
    """
    champion, split = champions.champion(s), training_split_of(s, version)
    if split is None or split.dataset.deleted_at or (champion is not None and champion.id == version.id):
        return []
    both = [version] if champion is None else [version, champion]
    request = partial(
        evaluations.request, s, dataset=split.dataset, split=split, part=TEST, precision=shared_precision(both)
    )
    requested = [request(version=one, user=user, notify=notify) for one in both]
    missing = [evaluation for evaluation in requested if evaluation.state != Work.DONE]
    if missing:
        record(s, Action.MODEL_COMPARE, f"model {version.label}", f"model {champion.label}" if champion else "")
    return missing
