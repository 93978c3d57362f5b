"""Computes the core-milliseconds that a slice takes in each stage, from the counters that every ctbatch keeps."""

from db.database import read_scope
from db.timing import published
from db.timing.stages import Stage

ELSE = "everything else"
Seconds = dict[Stage, float]


def stage_seconds() -> Seconds:
    """Return the core-seconds of each stage so far, summed over all processes that use the present database."""
    with read_scope() as s:
        return {stage: spent.seconds for stage, spent in published.sums(s).items()}


def per_slice(before: Seconds, after: Seconds, whole: float, slices: int) -> dict[str, float]:
    """Return the core-milliseconds that a slice took in each stage, in everything else, and in total.

    `whole`: the core-seconds of all processes between `before` and `after`.
    """
    spent = {str(stage): after[stage] - before[stage] for stage in Stage}
    spent[ELSE] = whole - sum(spent.values())
    spent["total"] = whole
    return {name: round(1000 * seconds / max(slices, 1), 3) for name, seconds in spent.items()}
