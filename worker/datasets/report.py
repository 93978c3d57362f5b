"""What there is to know of a dataset before anything is trained on it, as JSON."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from db import CLASSES
from db.datasets.slices import BY_PIXELS
from worker.datasets.collector import EXAMPLES, Gathered, Item
from worker.datasets.shortcuts import check_shortcuts
from worker.imaging.near_duplicates import Similar

SIZES_SHOWN = 20
GROUPS_SHOWN = 200


def make_report(gathered: Gathered, similar: Similar, twin: str | None) -> dict[str, Any]:
    """The report of a dataset whose slices are compared.

    `counts`, `groups`, `sizes`, `modes`, `formats`: slices by class. `identical`: slices whose pixels another has;
    `near_identical`: pairs of different pixels; each within a class and across, with examples by name. `left_out`:
    files by reason. `shortcuts`: see `check_shortcuts`. `identical_to`: the earlier version that this one is.
    `warnings`: what a person should read first.
    """
    slices = gathered.slices
    report: dict[str, Any] = {
        "labels_from": gathered.labels_from,
        "groups_from": dict(gathered.groups_from),
        "counts": gathered.count(),
        "groups": _groups(slices),
        "sizes": _by_class(slices, lambda item: f"{item.width} × {item.height}", SIZES_SHOWN),
        "modes": _by_class(slices, lambda item: item.mode or "unknown"),
        "formats": _by_class(slices, lambda item: item.format or "unknown"),
        "splits": _by_class(slices, lambda item: item.given_part) if any(item.given_part for item in slices) else {},
        "identical": _identical(slices),
        "near_identical": _near_identical(similar, gathered.first_of_pixels()),
        "left_out": gathered.left_out(),
        "shortcuts": check_shortcuts(slices),
        "identical_to": twin,
    }
    return report | {"warnings": _warnings(report)}


def _by_class(slices: Iterable[Item], key: Callable[[Item], str | None], most: int | None = None) -> dict[str, Any]:
    """`{value: {"COVID": n, "non-COVID": n}}`, the most frequent first; what is past `most` is counted as "(other)"."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for item in slices:
        found[key(item) or ""][CLASSES[item.label or 0]] += 1
    order = sorted(found.items(), key=lambda pair: (-pair[1].total(), pair[0]))
    shown = order[:most]
    if rest := order[len(shown) :]:
        shown.append(("(other)", sum((counts for _, counts in rest), Counter[str]())))
    return {value: {name: counts[name] for name in CLASSES.values()} for value, counts in shown}


def _groups(slices: Sequence[Item]) -> dict[str, Any]:
    labels: dict[str, set[int | None]] = defaultdict(set)
    for item in slices:
        labels[item.group].add(item.label)
    by_class = {name: sum(found == {label} for found in labels.values()) for label, name in CLASSES.items()}
    return {
        "count": len(labels),
        **by_class,
        "both": sum(len(found) == 2 for found in labels.values()),
        "slices": _by_class(slices, lambda item: item.group, GROUPS_SHOWN),
    }


def _identical(slices: Sequence[Item]) -> dict[str, Any]:
    same: dict[str | None, list[Item]] = defaultdict(list)
    for item in slices:
        same[item.pixels_sha256].append(item)
    found: dict[str, Any] = {"within": 0, "across": 0, "examples_within": [], "examples_across": []}
    for items in same.values():
        if len(items) > 1:
            kind = "within" if len({item.label for item in items}) == 1 else "across"
            found[kind] += len(items)
            if len(found[f"examples_{kind}"]) < EXAMPLES:
                found[f"examples_{kind}"].append([item.name for item in items[:EXAMPLES]])
    return found


def _near_identical(similar: Similar, firsts: Sequence[Item]) -> dict[str, Any]:
    def named(pairs: list[tuple[int, int]]) -> list[list[str]]:
        return [[firsts[left].name, firsts[right].name] for left, right in pairs]

    return {
        "within": similar.within,
        "across": similar.across,
        "examples_within": named(similar.examples_within),
        "examples_across": named(similar.examples_across),
    }


def _warnings(report: dict[str, Any]) -> list[str]:
    found: list[str] = []
    if report["identical_to"]:
        found.append(f"it is the same as {report['identical_to']}, slice by slice")
    if across := report["identical"]["across"]:
        found.append(f"{across} slices have the same pixels as one of the other class: one of their labels is wrong")
    if across := report["near_identical"]["across"]:
        found.append(f"{across} pairs of near-identical slices are of different classes")
    if both := report["groups"]["both"]:
        found.append(f"{both} groups have slices of both classes")
    if report["shortcuts"]["found"]:
        found.append(report["shortcuts"]["verdict"])
    if count := report["groups_from"].get(BY_PIXELS):
        found.append(
            f"no patient or series is known of {count} of {sum(report['groups_from'].values())} slices: those of one"
            " patient may land in different parts of a split, and figures come out too good"
        )
    return found
