"""The promotion gate: whether a candidate may take the champion's place.

The rule. Candidate and champion are held to the same slices, the test part of the candidate's own split. Notes say who
was trained on some of them, and on how many. The candidate is refused

- when its sensitivity there, as measured, is below its floor (`facts.floor`, else 0.85: of seven positive slices
  one may be missed). It is the figure that counts and not the upper end of its interval: a small test part has an
  interval so wide that it would let any candidate pass. A candidate that chance alone put below the floor costs an
  admin a reason; one that misses disease costs more;
- when it is worse than the champion beyond chance: the whole 95 % interval of the difference in AUC, accuracy or
  sensitivity, by resampling the same groups for both, is below nought.

Where there is no champion, or the candidate has no test part here (it was imported, or is the demo), or one of a single
group, there is nothing to compare on, and the promotion needs a reason. An admin may override a refusal with a reason.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from db import TEST
from db.evaluation import evaluations
from db.metrics import METRICS, Difference, difference_of, written_interval
from db.models import Evaluation, ModelVersion, User, Work
from db.registry import champions
from db.training.lineage import flattered, held_out

DEFAULT_FLOOR = 0.85
NOT_WORSE_IN = ("auc", "accuracy", "recall")
PASSED, REFUSED, NOTHING, PENDING = "passed", "refused", "nothing to compare on", "not compared yet"


@dataclass(frozen=True)
class Gate:
    """The gate's word on a candidate. `figures`: by name the two sides, their difference and its 95 % interval."""

    verdict: str
    candidate: str
    champion: str | None
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dataset: str | None = None
    slices: int | None = None
    groups: int | None = None
    floor: float = DEFAULT_FLOOR
    sensitivity: float | None = None
    sensitivity_interval: list[float] | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def objections(figures: Mapping[str, Mapping[str, float | None]], sensitivity: float | None, floor: float) -> list[str]:
    """Why a candidate is refused, by the rule above; nothing where it is not. `figures` as by
    `training.evaluation.metrics`.
    """
    found = []
    if sensitivity is None:
        found.append("the test part holds no COVID slice: its sensitivity is not known")
    elif sensitivity < floor:
        found.append(f"its sensitivity of {sensitivity:.3f} is below the floor of {floor:.3f}")
    for key in NOT_WORSE_IN:
        interval = figures.get(key, {}).get("low"), figures.get(key, {}).get("high")
        if (difference := difference_of(key, *interval)) == Difference.WORSE:
            limits = written_interval(*interval, "+")
            found.append(f"its {METRICS[key].name} is {difference}: the difference is {limits}")
    return found


def floor_of(version: ModelVersion) -> float:
    """Return the sensitivity below which this version is not promoted."""
    return DEFAULT_FLOOR if version.facts.floor is None else version.facts.floor


def gate_of(s: Session, version: ModelVersion) -> Gate:
    """The gate's word now, from the evaluations that are done; `not compared yet` where one is missing."""
    champion, split = champions.champion(s), held_out(s, version)
    known: dict[str, Any] = {
        "candidate": version.label,
        "champion": champion.label if champion else None,
        "floor": floor_of(version),
    }
    if champion is not None and champion.id == version.id:
        return Gate(NOTHING, **known, reasons=["it is the champion already"])
    if split is None:
        return Gate(NOTHING, **known, reasons=["its training left no test part in this database"])
    known["dataset"] = split.dataset.label
    own = evaluations.find(s, version=version, dataset=split.dataset, split=split, part=TEST)
    if own is None or own.state != Work.DONE:
        return Gate(PENDING, **known, reasons=_what_is_missing(own, version))
    known |= _measured(own)
    if champion is None:
        found = objections({}, known["sensitivity"], known["floor"])
        notes = flattered(s, [version], split.dataset_id, split, TEST)
        return Gate(REFUSED if found else NOTHING, **known, reasons=found or ["there is no champion"], notes=notes)
    theirs = evaluations.find(s, version=champion, dataset=split.dataset, split=split, part=TEST)
    if theirs is None or theirs.state != Work.DONE:
        return Gate(PENDING, **known, reasons=_what_is_missing(theirs, champion))
    figures = own.result.get("against", {}).get(champion.label, {})
    if not figures:
        return Gate(PENDING, **known, reasons=["the scores of one of the two are gone: they could not be compared"])
    found = objections(figures, known["sensitivity"], known["floor"])
    notes = flattered(s, [version, champion], split.dataset_id, split, TEST)
    notes += _not_compared(figures)
    verdict = REFUSED if found else PASSED
    if not found and all(figures[name]["low"] is None for name in NOT_WORSE_IN):
        verdict, found = NOTHING, ["the test part is one group, which tells nothing of others"]
    return Gate(verdict, **known, reasons=found, notes=notes, figures=figures)


def _not_compared(figures: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """A line for people where chance cannot be told; objections leave such figures out."""
    names = [METRICS[key].name for key in NOT_WORSE_IN if figures.get(key, {}).get("low") is None]
    some = 0 < len(names) < len(NOT_WORSE_IN)
    return [f"too few groups (patients) of a class to tell chance in: {', '.join(names)}"] if some else []


def _measured(own: Evaluation) -> dict[str, Any]:
    result = own.result
    return {
        "slices": result.get("n"),
        "groups": result.get("groups"),
        "sensitivity": result.get("recall"),
        "sensitivity_interval": (result.get("intervals") or {}).get("recall"),
    }


def _what_is_missing(evaluation: Evaluation | None, version: ModelVersion) -> list[str]:
    if evaluation is not None and evaluation.state == Work.FAILED:
        return [f"the evaluation of {version.label} failed: {evaluation.error}"]
    return [f"{version.label} is not evaluated on it yet"]


def request_gate(
    s: Session, version: ModelVersion, user: User | None = None, *, notify: bool = True
) -> list[Evaluation]:
    """Ask for the evaluations that `gate_of` needs, those that failed once more; what is not done yet of them.

    `notify=False` sends no message, for who carries them out at once.

    Raises evaluations.EvaluationError where the dataset cannot be used.
    """
    champion, split = champions.champion(s), held_out(s, version)
    if split is None or (champion is not None and champion.id == version.id):
        return []
    versions = [version] if champion is None else [version, champion]
    asked = [
        evaluations.request(s, version=each, dataset=split.dataset, split=split, part=TEST, user=user, notify=notify)
        for each in versions
    ]
    return [evaluation for evaluation in asked if evaluation.state != Work.DONE]
