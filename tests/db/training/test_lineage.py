"""The lineage of a version, on both databases: slices that trained it stay in train, or are a leak."""

from collections.abc import Callable
from typing import Any

import pytest

from db import PARTS
from db.database import read_scope, session_scope
from db.datasets import slices
from db.datasets.slices import part_of, split_candidates
from db.models import Dataset, LabelledSlice, ModelVersion, Split, Work
from db.models.documents import FindingRule, Tuning
from db.training import caveats, lineage, runs
from db.training.runs import RunError
from tests.builders.datasets import delete_dataset, new_split
from tests.builders.datasets import split_of as keep_split

pytestmark = pytest.mark.usefixtures("database")
GROUPS = 20
SLICES = 3  # of each group


def add_dataset(number: int = 1, groups: range = range(GROUPS), **columns: Callable[[int], Any]) -> Dataset:
    """A dataset of groups of one class each; a group has the same pixels in every dataset. `columns`: by row."""
    with session_scope() as s:
        dataset = Dataset(name="site", number=number, sources=[], state=Work.DONE, sha256=f"{number}" * 64)
        s.add(dataset)
        s.flush()
        for row in range(len(groups) * SLICES):
            group = groups[row // SLICES]
            own = {name: value(row) for name, value in columns.items()}
            values = {"label": group % 2, "group": f"g{group}", "pixels_sha256": f"{group}-{row % SLICES}", **own}
            s.add(LabelledSlice(dataset_id=dataset.id, ordinal=row, row=row, name=f"{row}.png", **values))
    return dataset


def split_of(dataset: Dataset, **how: Any) -> Split:
    with session_scope() as s:
        return keep_split(s, dataset, **how)


def add_version(number: int, split: Split | None, *before: str, **columns: Any) -> ModelVersion:
    blank: dict[str, Any] = {"files": {}, "metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1"}
    with session_scope() as s:
        known = {"id": split.id, "dataset": s.get_one(Split, split.id).dataset.label} if split else None
        version = ModelVersion(name="lungs", number=number, threshold=0.5, temperature=1.0, **blank, **columns)
        version.facts = {"split": known, "lineage": list(before), "dataset": "site/1"}
        s.add(version)
    return version


def launch(dataset: Dataset, split: Split, version: ModelVersion, *allowed: str) -> list[str]:
    """The leaks that a run from the version has."""
    with read_scope() as s:
        return runs.check_split(s, dataset, split, version, allowed)


def parts_of(dataset: Dataset, split: Split) -> dict[str, set[str | None]]:
    """The pixels of each part."""
    with read_scope() as s:
        return {
            part: {each.pixels_sha256 for each in split_candidates(s, dataset.id) if part_of(split, each) == part}
            for part in PARTS
        }


def test_slices_that_trained_the_version_are_a_leak_unless_allowed() -> None:
    dataset = add_dataset()
    own, other = split_of(dataset), split_of(dataset, seed=8)
    version = add_version(1, own)
    before, now = parts_of(dataset, own), parts_of(dataset, other)
    seen = len(before["train"] & (now["validation"] | now["test"]))
    assert seen
    with pytest.raises(RunError) as refused:
        launch(dataset, other, version, "identical-slices")
    message = f"seen-by-parent: {seen} slices, which trained lungs/1 or one that it comes from: they belong in train"
    assert message in str(refused.value)
    assert launch(dataset, other, version, "seen-by-parent", "identical-slices") == ["seen-by-parent"]
    assert launch(dataset, own, version, "seen-by-parent") == []


def test_slices_that_trained_an_older_ancestor_are_found() -> None:
    early, late, now = add_dataset(1, range(10)), add_dataset(2, range(10, 20)), add_dataset(3)
    grandparent = add_version(1, split_of(early))
    parent = add_version(2, split_of(late), "gone/4", grandparent.label)
    split = split_of(now, seed=9)
    trained = parts_of(early, split_of(early))["train"] | parts_of(late, split_of(late))["train"]
    with read_scope() as s:
        seen = lineage.find_seen(s, parent, split)["seen-by-parent"]["count"]
    parts = parts_of(now, split)
    assert seen == len(trained & (parts["validation"] | parts["test"]))
    assert trained - parts_of(late, split_of(late))["train"]


def test_slice_that_is_near_identical_to_one_that_trained_the_version_counts() -> None:
    first = add_dataset(1, range(10))
    version = add_version(1, split_of(first))
    trained = next(iter(parts_of(first, split_of(first))["train"]))
    row = [f"{group}-{n}" for group in range(GROUPS) for n in range(SLICES)].index(str(trained))
    last = GROUPS * SLICES - 1  # of a group that is new
    second = add_dataset(2, cluster=lambda each: row if each == last else each)
    with read_scope() as s:
        seen = {each.row for each in lineage.known_in(s, version, second.id).seen}
    assert {row, last} <= seen
    assert last - 1 not in seen


def test_imported_version_may_have_seen_all_of_its_dataset() -> None:
    dataset = add_dataset()
    version = add_version(1, None, dataset_hash=dataset.sha256)
    with pytest.raises(RunError, match="seen-by-parent: 1"):
        launch(dataset, split_of(dataset), version)
    with pytest.raises(slices.DatasetError, match="allow seen-by-parent to draw all parts again"):
        split_of(dataset, after=version)


def test_old_slices_keep_their_parts_when_new_ones_are_added() -> None:
    first, second = add_dataset(1, range(20)), add_dataset(2, range(40))
    own = split_of(first)
    version = add_version(1, own)
    split = split_of(second, seed=8, after=version)
    before, now = parts_of(first, own), parts_of(second, split)
    assert all(before[part] < now[part] for part in PARTS), "new slices join each part"
    assert not split.leaks
    assert launch(second, split, version) == []
    child = add_version(2, split, version.label)
    third = add_dataset(3, range(60))
    later = parts_of(third, split_of(third, seed=9, after=child))
    assert all(now[part] < later[part] for part in PARTS)


def test_groups_connected_with_training_slices_go_to_train() -> None:
    first = add_dataset(1, range(20))
    own = split_of(first)
    trained = next(iter(parts_of(first, own)["train"]))
    row = [f"{group}-{n}" for group in range(40) for n in range(SLICES)].index(str(trained))
    last = 40 * SLICES - 1
    second = add_dataset(2, range(40), cluster=lambda each: row if each == last else each)
    for seed in range(5):
        split = split_of(second, seed=seed, after=add_version(seed + 1, own))
        assert split.assignment["g39"] == "train"


def test_on_the_same_dataset_the_split_is_the_versions_own_whatever_the_seed() -> None:
    dataset = add_dataset()
    own = split_of(dataset)
    assert split_of(dataset, seed=8, after=add_version(1, own)).id == own.id


def test_version_that_saw_none_of_the_slices_changes_no_split() -> None:
    first, second = add_dataset(1, range(20)), add_dataset(2, range(20, 40))
    version = add_version(1, split_of(first))
    assert split_of(second, after=version).id == split_of(second).id


def test_split_after_a_version_is_used_again_when_the_versions_dataset_is_deleted() -> None:
    first, second = add_dataset(1, range(20)), add_dataset(2, range(19))
    version = add_version(1, split_of(first))
    split = split_of(second, seed=8, after=version)
    delete_dataset(first)
    assert split_of(second, seed=8, after=version).id == split.id
    assert split_of(second, seed=9, after=version).after is None, "nobody knows which slices the version has seen"


def test_given_split_with_slices_without_a_part_is_refused() -> None:
    holes = add_dataset(1, given_part=lambda row: ("test", "validation", "train", None)[row // SLICES % 8 // 2])
    with pytest.raises(slices.DatasetError, match="cannot be used: 12 slices are in none of its parts"):
        split_of(holes)


def test_unknown_part_is_ignored() -> None:
    first = add_dataset(1)
    with session_scope() as s:
        split = new_split(first.id, {}, rule="given", seed=0)  # as of an older release
        s.add(split)
    version = add_version(1, split)
    with read_scope() as s:
        assert lineage.parts_in(s, version) == {}
    assert split_of(add_dataset(2), after=version).rule == "groups"


def test_rows_are_found_by_their_part_for_any_ancestor() -> None:
    dataset = add_dataset()
    own, other = split_of(dataset), split_of(dataset, seed=8)
    parent = add_version(1, other)
    version = add_version(2, own, parent.label)
    stranger = add_version(3, None, dataset_hash=dataset.sha256)
    with read_scope() as s:
        trained = {
            each.row
            for each in split_candidates(s, dataset.id)
            if "train" in (part_of(own, each), part_of(other, each))
        }
        assert lineage.rows_in(s, version, dataset, PARTS[:1]) == trained
        assert len(lineage.rows_in(s, stranger, dataset, PARTS[:1])) == GROUPS * SLICES
        assert [each.id for each in lineage.trained_on(s, version)] == [dataset.id]


def test_given_split_is_checked_against_the_lineage() -> None:
    first = add_dataset(1)
    version = add_version(1, split_of(first))
    second = add_dataset(2, given_part=lambda row: ("test", "validation", "train", "train")[row // SLICES % 8 // 2])
    split = split_of(second, after=version)
    assert split.rule == "given"
    with pytest.raises(RunError, match="seen-by-parent"):
        launch(second, split, version)
    assert launch(second, split, version, "seen-by-parent") == ["seen-by-parent"]


def test_groups_with_the_names_of_training_groups_count_as_known() -> None:
    """The second dataset has new slices of the same patients."""
    first = add_dataset()
    second = add_dataset(2, pixels_sha256=lambda row: f"new-{row}")
    own, other = split_of(first), split_of(second, seed=8)
    version = add_version(1, own)
    trained = {group for group, part in own.assignment.items() if part == "train"}
    tested = [group for group, part in other.assignment.items() if part == "test"]
    count = SLICES * len(trained & set(tested))
    assert count
    with read_scope() as s:
        assert lineage.find_seen(s, version, other) == {}, "no slice is the same"
        assert lineage.known_in_test(s, version, other) == count
        assert lineage.known_in_test(s, version, own) == 0
        [note] = caveats.optimism_notes(s, [version], second.id, other, "test")
        assert f"the names of the groups of {count} of these slices" in note
        assert lineage.groups_in(s, version, ["train"]) == trained


def test_groups_that_only_pixels_show_are_not_compared_by_name() -> None:
    first = add_dataset(group=lambda row: f"near-{row // SLICES}")
    second = add_dataset(2, group=lambda row: f"near-{row // SLICES}", pixels_sha256=lambda row: f"new-{row}")
    version = add_version(1, split_of(first))
    with read_scope() as s:
        assert lineage.known_in_test(s, version, split_of(second, seed=8)) == 0


def test_datasets_whose_groups_come_from_headers_are_compared_by_pixels() -> None:
    first, second = add_dataset(), add_dataset(2)
    version = add_version(1, split_of(first))

    def labels(**groups_from: int) -> list[str]:
        with session_scope() as s:
            s.get_one(Dataset, first.id).report = {"groups_from": groups_from}
        with read_scope() as s:
            return caveats.compared_by_pixels(s, version, s.get_one(Dataset, second.id))

    assert labels(CSV=30, folders=30) == []
    assert labels(**{"CSV": 30, "DICOM patient, study or series": 30}) == ["site/1"]


def rule_tuned_on(dataset_hash: str | None) -> FindingRule:
    tuned = Tuning(dataset="site/1", dataset_hash=dataset_hash, engine="fake", seed=7, groups={})
    return FindingRule(rule="max", version=2, threshold=0.5, tuned=tuned)


@pytest.mark.parametrize(
    ("groups", "columns", "expected"),
    [
        (range(20), {}, 60),
        (range(10, 30), {}, 30),
        (range(10, 30), {"group": lambda row: f"near-{row}"}, 30),
        (range(10, 30), {"pixels_sha256": str}, 30),
        (range(10, 30), {"pixels_sha256": str, "group": lambda row: f"near-{row}"}, 0),
    ],
    ids=["all", "half", "pixels alone", "names of groups alone", "nothing in common"],
)
def test_slices_that_tuned_a_rule_are_found_in_another_dataset(
    groups: range, columns: dict[str, Callable[[int], Any]], expected: int
) -> None:
    first, second = add_dataset(1), add_dataset(2, groups, **columns)
    with read_scope() as s:
        assert len(lineage.tuned_on(s, rule_tuned_on(first.sha256), second.id)) == expected
        for elsewhere in ("9" * 64, None):
            assert lineage.tuned_on(s, rule_tuned_on(elsewhere), second.id) == []


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_names_of_groups_that_differ_in_letter_case_connect_datasets() -> None:
    first = add_dataset(1, pixels_sha256=lambda row: f"a{row}")
    version = add_version(1, split_of(first))
    known = []
    for number, letter in ((2, "g"), (3, "G")):
        other = add_dataset(
            number,
            pixels_sha256=lambda row, letter=letter: f"{letter}{row}",
            group=lambda row, letter=letter: f"{letter}{row // SLICES}",
        )
        with read_scope() as s:
            known.append(len(lineage.known_in(s, version, other.id).named))
    assert known[0] == known[1] > 0
