"""What connects two parts of a split, found from the slices and their parts alone, however the split was made."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from db import CLASSES
from db.datasets.slices import Placed

IDENTICAL, NEAR_IDENTICAL = "identical-slices", "near-identical-slices"
SHARED_GROUPS, CONFLICTING = "shared-groups", "conflicting-labels"
SEEN = "seen-by-parent"  # of a run and not of a split alone: `db.training.lineage` finds it
LEAKS = (IDENTICAL, NEAR_IDENTICAL, SHARED_GROUPS, CONFLICTING, SEEN)
EXAMPLES = 20

Parts = Mapping[int, str]  # row -> part


def find_leaks(slices: Sequence[Placed], parts: Parts) -> dict[str, Any]:
    """`{name: {"count", "examples"}}` of what connects two parts; empty where nothing does.

    `identical-slices`: the same pixels in two parts. `near-identical-slices`: a cluster of different pixels that lies
    in two parts; as its slices hang together, some near-identical pair is torn apart. `shared-groups`: a group in two
    parts. `conflicting-labels`: the same pixels under both labels, wherever they lie: one of the two is wrong.
    """
    pixels = _gather(slices, lambda each: each.pixels_sha256)
    clusters = [found for found in _gather(slices, lambda each: each.cluster) if _several_pixels(found)]
    found = {
        IDENTICAL: _across(pixels, parts),
        NEAR_IDENTICAL: _across(clusters, parts),
        SHARED_GROUPS: [
            f"{torn[0].group}: {', '.join(sorted({parts[each.row] for each in torn}))}"
            for torn in _torn(_gather(slices, lambda each: each.group), parts)
        ],
        CONFLICTING: [
            "; ".join(f"{each.name} ({CLASSES[each.label]})" for each in _one_of_each(same, lambda x: x.label))
            for same in pixels
            if len({each.label for each in same}) > 1
        ],
    }
    return {name: {"count": len(all_), "examples": all_[:EXAMPLES]} for name, all_ in found.items() if all_}


def _gather(slices: Iterable[Placed], key: Callable[[Placed], object]) -> list[list[Placed]]:
    """The slices that share a key, where more than one does; None is no key."""
    found: dict[object, list[Placed]] = defaultdict(list)
    for each in slices:
        if (value := key(each)) is not None:
            found[value].append(each)
    return [those for those in found.values() if len(those) > 1]


def _several_pixels(slices: list[Placed]) -> bool:
    return len({each.pixels_sha256 for each in slices}) > 1


def _torn(sets: list[list[Placed]], parts: Parts) -> list[list[Placed]]:
    return [those for those in sets if len({parts[each.row] for each in those}) > 1]


def _across(sets: list[list[Placed]], parts: Parts) -> list[str]:
    return [
        "; ".join(f"{each.name} ({parts[each.row]})" for each in _one_of_each(those, lambda x: parts[x.row]))
        for those in _torn(sets, parts)
    ]


def _one_of_each(slices: list[Placed], key: Callable[[Placed], object]) -> list[Placed]:
    return list({key(each): each for each in reversed(slices)}.values())[::-1]
