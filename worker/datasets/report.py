"""Makes the report of a dataset, as JSON: the facts to know before training on it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict

from db import CLASSES
from db.datasets.slices import BY_JOB, SplitCandidate, about_contested, about_left_out, about_odd_hu, count_unknown
from db.training.splits import gap_in_given, joined_groups
from worker.datasets.collector import EXAMPLES, Collector, Item
from worker.datasets.identity import warning_of, warning_of_torn
from worker.datasets.shortcuts import check_shortcuts
from worker.imaging.near_duplicates import Similar

SIZES_SHOWN = 20
GROUPS_SHOWN = 200
LEAST_GROUPS_TO_SPLIT = 3  # of each class
ONE_JOB = (
    "submit all slices as one job, in one folder or archive that has a folder for each patient, and label them there"
)
MANY_JOINED = 0.25  # if one cluster connects this share of the groups, the report warns

ByClass = dict[str, dict[str, int]]
"""`{value: {"COVID": n, "non-COVID": n}}`"""


class Duplicates(TypedDict):
    """How many slices or pairs are alike, within a class and across both classes, with the names of some."""

    within: int
    across: int
    examples_within: list[list[str]]
    examples_across: list[list[str]]


Groups = TypedDict("Groups", {"count": int, "COVID": int, "non-COVID": int, "both": int, "slices": ByClass})


def make_report(collector: Collector, similar: Similar, twin: str | None) -> dict[str, Any]:
    """Return the report of a dataset whose slices have been compared. `twin`: an identical earlier dataset.

    `blind_labels`, `shared_labels`, `contested_labels`: numbers of reviewed slices. `counts`, `groups`, `sizes`,
    `modes`, `formats`, `splits`: numbers by class. `identical`: slices with the pixels of another slice.
    `near_identical`: pairs of slices with nearly the same pixels. `left_out`: files by reason. `labelled_files`: files
    by class, and how many of them were left out. `odd_hu`: slices whose values may not be HU, by class. `identical_to`:
    the identical earlier dataset. `largest_cluster`: the largest number of groups that similar slices connect.
    `identity`: how well DICOM headers keep patients apart. `warnings`: what a person should read first.
    """
    slices, identity = collector.slices, collector.headers.identity()
    report = {
        "labels_from": collector.labels_from,
        "blind_labels": collector.blind_labels,
        "shared_labels": collector.shared_labels,
        "contested_labels": collector.contested_labels,
        "groups_from": dict(collector.groups_from),
        "counts": collector.count(),
        "groups": _groups(slices),
        "identity": identity.as_json(),
        "sizes": _by_class(slices, lambda item: f"{item.width} × {item.height}", SIZES_SHOWN),
        "modes": _by_class(slices, lambda item: item.mode or "unknown"),
        "formats": _by_class(slices, lambda item: item.format or "unknown"),
        "splits": _by_class(slices, lambda item: item.given_part) if any(item.given_part for item in slices) else {},
        "identical": _identical(slices),
        "near_identical": _near_identical(similar, collector.first_of_pixels()),
        "largest_cluster": _largest_cluster(slices),
        "left_out": collector.left_out(),
        "labelled_files": collector.labelled_files(),
        "odd_hu": {name: collector.odd_hu[label] for label, name in CLASSES.items()},
        "shortcuts": check_shortcuts(slices),
        "identical_to": twin,
    }
    about_patients = filter(None, (warning_of(identity), warning_of_torn(collector.patients.torn())))
    first = [*about_patients, *collector.label_warnings]
    return report | {"warnings": first + _warnings(report)}


def _by_class(slices: Iterable[Item], key: Callable[[Item], str | None], most: int | None = None) -> ByClass:
    """Count slices by value and class, the most frequent value first.

    If there are more than `most` values, the rest are counted together as "(other)".
    """
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for item in slices:
        counted[key(item) or ""][CLASSES[item.label or 0]] += 1
    order = sorted(counted.items(), key=lambda pair: (-pair[1].total(), pair[0]))
    shown = order[:most]
    if rest := order[len(shown) :]:
        shown.append(("(other)", sum((counts for _, counts in rest), Counter[str]())))
    return {value: {name: counts[name] for name in CLASSES.values()} for value, counts in shown}


def _groups(slices: Sequence[Item]) -> Groups:
    labels: dict[str, set[int | None]] = defaultdict(set)
    for item in slices:
        labels[item.group].add(item.label)
    return {
        "count": len(labels),
        "COVID": sum(classes == {1} for classes in labels.values()),
        "non-COVID": sum(classes == {0} for classes in labels.values()),
        "both": sum(len(classes) == 2 for classes in labels.values()),
        "slices": _by_class(slices, lambda item: item.group, GROUPS_SHOWN),
    }


def _identical(slices: Sequence[Item]) -> Duplicates:
    by_pixels: dict[str | None, list[Item]] = defaultdict(list)
    for item in slices:
        by_pixels[item.pixels_sha256].append(item)
    repeated = [items for items in by_pixels.values() if len(items) > 1]
    within = [items for items in repeated if len({item.label for item in items}) == 1]
    across = [items for items in repeated if len({item.label for item in items}) > 1]
    return Duplicates(
        within=sum(map(len, within)),
        across=sum(map(len, across)),
        examples_within=[[item.name for item in items[:EXAMPLES]] for items in within[:EXAMPLES]],
        examples_across=[[item.name for item in items[:EXAMPLES]] for items in across[:EXAMPLES]],
    )


def _near_identical(similar: Similar, firsts: Sequence[Item]) -> Duplicates:
    def names(pairs: list[tuple[int, int]]) -> list[list[str]]:
        return [[firsts[left].name, firsts[right].name] for left, right in pairs]

    return Duplicates(
        within=similar.within,
        across=similar.across,
        examples_within=names(similar.examples_within),
        examples_across=names(similar.examples_across),
    )


def _largest_cluster(slices: Sequence[Item]) -> dict[str, int]:
    """Return how many groups and slices the cluster with most groups has, or {} if no cluster connects two groups."""
    units = joined_groups(
        [
            SplitCandidate(item.row or 0, item.name, item.label or 0, item.group or "", item.cluster, None, None)
            for item in slices
        ]
    )
    groups, count = max(((len(set(unit.groups)), unit.slices.total()) for unit in units), default=(0, 0))
    return {"groups": groups, "slices": count} if groups > 1 else {}


def _warnings(report: dict[str, Any]) -> list[str]:
    warnings: list[str] = []
    if report["identical_to"]:
        warnings.append(f"it is the same as {report['identical_to']}, slice by slice")
    if across := report["identical"]["across"]:
        warnings.append(f"{across} slices have the same pixels as one of the other class: one of their labels is wrong")
    if across := report["near_identical"]["across"]:
        pairs = "pair of near-identical slices is" if across == 1 else "pairs of near-identical slices are"
        warnings.append(f"{across} {pairs} of different classes")
    for name in CLASSES.values():
        count = report["groups"][name] + report["groups"]["both"]
        if report["counts"][name] and count < LEAST_GROUPS_TO_SPLIT:
            warnings.append(
                f"the slices of {name} belong to {count} {'group' if count == 1 else 'groups'}: training, validation"
                f" and test need {LEAST_GROUPS_TO_SPLIT}, so that each has a group of its own"
            )
    counts = {(part, name): number for part, of in report["splits"].items() for name, number in of.items()}
    if counts and (gap := gap_in_given(counts)):
        warnings.append(gap)
    joined, groups = report["largest_cluster"].get("groups", 0), report["groups"]["count"]
    if joined >= MANY_JOINED * groups:
        warnings.append(
            f"near-identical slices connect {joined} of {groups} groups, one with the next: a split keeps them in one"
            " part"
        )
    if contested := about_contested(report["contested_labels"], report["shared_labels"]):
        warnings.append(
            f"{contested}: the newest label of an admin counts, or else the owner's; look at these slices again"
        )
    warnings += about_left_out(report["labelled_files"]) + about_odd_hu(report["odd_hu"], report["counts"])
    if both := report["groups"]["both"]:
        warnings.append(f"{both} {'group has' if both == 1 else 'groups have'} slices of both classes")
    if report["shortcuts"]["found"]:
        warnings.append(report["shortcuts"]["verdict"])
    if count := count_unknown(report["groups_from"]):
        warnings.append(
            f"{count} of {sum(report['groups_from'].values())} slices have no known patient or series: slices of one"
            " patient may be in several parts of a split, and metrics may be too good"
            + (f"; to make the patients known, {ONE_JOB}" if BY_JOB in report["groups_from"] else "")
        )
    return warnings
