"""Finds leaks: slices or groups that connect two parts of a split. It uses only the slices and their parts."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

from db import CLASSES
from db.datasets.slices import SplitCandidate

IDENTICAL, NEAR_IDENTICAL = "identical-slices", "near-identical-slices"
SHARED_GROUPS, CONFLICTING = "shared-groups", "conflicting-labels"
SEEN = "seen-by-parent"  # a leak of a run, not only of a split; `db.training.lineage` finds it
LEAKS = (IDENTICAL, NEAR_IDENTICAL, SHARED_GROUPS, CONFLICTING, SEEN)
EXAMPLES = 20

Parts = Mapping[int, str]
"""The part of each row."""


class Leak(TypedDict):
    """How often a leak occurs, with at most `EXAMPLES` examples."""

    count: int
    examples: list[str]


def find_leaks(slices: Sequence[SplitCandidate], parts: Parts) -> dict[str, Leak]:
    """Return the leaks of a split by name, or {} if nothing connects two parts.

    `identical-slices`: the same pixels are in two parts. `near-identical-slices`: a cluster of different pixels is in
    two parts, so at least one near-identical pair is separated. `shared-groups`: a group is in two parts.
    `conflicting-labels`: the same pixels have both labels, in any parts, so one of the labels is wrong.
    """
    same_pixels = _gather(slices, lambda candidate: candidate.pixels_sha256)
    clusters = [cluster for cluster in _gather(slices, lambda one: one.cluster) if _has_several_pixels(cluster)]
    leaks = {
        IDENTICAL: _across(same_pixels, parts),
        NEAR_IDENTICAL: _across(clusters, parts),
        SHARED_GROUPS: [
            f"{group[0].group}: {', '.join(sorted({parts[one.row] for one in group}))}"
            for group in _in_several_parts(_gather(slices, lambda one: one.group), parts)
        ],
        CONFLICTING: [
            "; ".join(f"{one.name} ({CLASSES[one.label]})" for one in _first_of_each(same, lambda x: x.label))
            for same in same_pixels
            if len({one.label for one in same}) > 1
        ],
    }
    return {name: Leak(count=len(lines), examples=lines[:EXAMPLES]) for name, lines in leaks.items() if lines}


def about_conflicts(leak: Leak) -> str:
    """Return what to do about `conflicting-labels`."""
    example = f" ({leak['examples'][0]})" if leak["examples"] else ""
    return (
        f"no split can correct slices that have the same pixels but different labels{example}: relabel or remove them,"
        " and make the dataset again"
    )


def _gather(slices: Iterable[SplitCandidate], key: Callable[[SplitCandidate], object]) -> list[list[SplitCandidate]]:
    """Group the slices by key, and return the groups of two or more. Leave out slices whose key is None."""
    by_key: dict[object, list[SplitCandidate]] = defaultdict(list)
    for candidate in slices:
        if (value := key(candidate)) is not None:
            by_key[value].append(candidate)
    return [together for together in by_key.values() if len(together) > 1]


def _has_several_pixels(slices: list[SplitCandidate]) -> bool:
    return len({one.pixels_sha256 for one in slices}) > 1


def _in_several_parts(sets: list[list[SplitCandidate]], parts: Parts) -> list[list[SplitCandidate]]:
    return [together for together in sets if len({parts[one.row] for one in together}) > 1]


def _across(sets: list[list[SplitCandidate]], parts: Parts) -> list[str]:
    """Return a line for each set of slices that is in several parts. The line names one slice of each part."""
    return [
        "; ".join(f"{one.name} ({parts[one.row]})" for one in _first_of_each(together, lambda x: parts[x.row]))
        for together in _in_several_parts(sets, parts)
    ]


def _first_of_each(slices: list[SplitCandidate], key: Callable[[SplitCandidate], object]) -> list[SplitCandidate]:
    return list({key(one): one for one in reversed(slices)}.values())[::-1]
