"""Datasets on both databases: numbered, claimed by one, recorded whole; splits that tear nothing apart, and leaks."""

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import func, select, update

from db import PARTS
from db.clock import from_now
from db.database import read_scope, session_scope
from db.datasets import datasets
from db.datasets.slices import DatasetError, LabelledRow, SplitCandidate, rows_of
from db.ledger import jobs, leases
from db.ledger.jobs import ReceivedFile
from db.ledger.leases import Claim, StaleClaim
from db.models import Chunk, Dataset, Job, LabelledSlice, Review, Slice, Split, Upload, User, Work
from db.training.splits import draw, joined_groups
from tests.builders.datasets import split_of as keep_split
from tests.builders.leases import let_leases_end
from worker import reap

pytestmark = pytest.mark.usefixtures("database")
FILE = ReceivedFile("slices.tar", "5" * 64, 10, "tar", 3)


def ask(name: str = "site") -> Dataset:
    with session_scope() as s:
        return datasets.create_dataset(s, name=name, user=None, files=[FILE])


def claim() -> Claim:
    with session_scope() as s:
        claimed = datasets.claim_dataset(s, "w")
    assert claimed is not None
    return claimed[1]


def finish(own: Claim, slices: Iterable[dict[str, Any]], sha256: str = "d" * 64) -> None:
    rows = list(slices)
    with session_scope() as s:
        datasets.finish_dataset(s, own, rows, size=len(rows), sha256=sha256, arrays=["a" * 64], report={})


def slice_of(row: int, label: int, group: str, **values: Any) -> dict[str, Any]:
    """The columns of one slice of its own pixels; the same columns for all rows, as one statement needs."""
    own = {"pixels_sha256": f"p{row}", "cluster": row, "given_part": None, "reason": None}
    return {"ordinal": row, "row": row, "name": f"{row}.png", "label": label, "group": group} | own | values


def groups_of(counts: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Slices of groups: `{group: (COVID, non-COVID)}`."""
    rows: list[dict[str, Any]] = []
    for group, (ill, healthy) in counts.items():
        rows += [slice_of(len(rows) + n, int(n < ill), group) for n in range(ill + healthy)]
    return rows


def many(groups: int = 20, slices: int = 10) -> list[dict[str, Any]]:
    return groups_of({f"g{n:02}": (slices, 0) if n % 2 else (0, slices) for n in range(groups)})


def built(rows: list[dict[str, Any]]) -> Dataset:
    dataset = ask()
    finish(claim(), rows)
    with read_scope() as s:
        return s.get_one(Dataset, dataset.id)


def split_of(dataset: Dataset, **values: Any) -> Split:
    with session_scope() as s:
        return keep_split(s, dataset, **values)


def parts_of(dataset: Dataset, split: Split) -> dict[str, list[LabelledRow]]:
    with read_scope() as s:
        return {part: rows_of(s, dataset.id, split, part) for part in PARTS}


def test_versions_of_a_name_are_numbered_and_found() -> None:
    first, second, other = ask(), ask(), ask("other")
    assert [first.label, second.label, other.label] == ["site/1", "site/2", "other/1"]
    with read_scope() as s:
        for label, expected in (("site/1", first), ("site", second), (str(other.id), other)):
            found = datasets.find_dataset(s, label)
            assert found is not None
            assert found.id == expected.id
        for label in ("none", "site/3", "site/x", "site/", "", "99999", "9" * 40):
            assert datasets.find_dataset(s, label) is None
        assert [each.label for each in datasets.list_datasets(s)] == ["other/1", "site/2", "site/1"]


def test_name_that_is_not_allowed_is_refused() -> None:
    for name in ("", "a/b", "12", "../x", "a b", "x" * 65, "ä", "a\n"):
        with pytest.raises(DatasetError, match="name"):
            ask(name)


def test_dataset_without_files_is_refused() -> None:
    with pytest.raises(DatasetError, match="at least one"), session_scope() as s:
        datasets.create_dataset(s, name="site", user=None, files=[])


def test_datasets_created_at_once_get_different_numbers() -> None:
    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with read_scope() as s:
        assert sorted(s.scalars(select(Dataset.number))) == [1, 2, 3, 4, 5]


def test_a_dataset_is_claimed_once_and_seen_as_it_is_built(ann: User) -> None:
    dataset = ask()

    def view() -> datasets.DatasetView:
        with read_scope() as s:
            return datasets.dataset_view(s, s.get_one(Dataset, dataset.id))

    assert view().state == "queued"
    own = claim()
    with session_scope() as s:
        assert datasets.claim_dataset(s, "other") is None
        datasets.report_progress(s, own, 0.5)
    assert (view().state, view().progress) == ("building", 0.5)
    finish(own, many())
    shown = view().as_dict()
    assert (shown["name"], shown["state"], shown["size"], shown["progress"]) == ("site/1", "ready", 200, 1.0)
    assert shown["counts"] == {"COVID": 0, "non-COVID": 0, "rejected": 0}  # from the report, which is empty here
    assert shown["created_at"].endswith("+00:00")


def test_a_worker_that_lost_its_claim_records_nothing_and_leaves_nothing() -> None:
    dataset = ask()
    lost = claim()
    with session_scope() as s:
        s.add(LabelledSlice(dataset_id=dataset.id, ordinal=900, name="left by an earlier attempt"))
    let_leases_end(Dataset)
    own = claim()
    with pytest.raises(StaleClaim):
        finish(lost, many())
    with pytest.raises(StaleClaim), session_scope() as s:
        datasets.report_progress(s, lost, 0.9)
    finish(own, many(4, 2))
    with read_scope() as s:
        assert s.scalar(select(func.count()).select_from(LabelledSlice)) == 8


def test_sweeper_sends_datasets_again_whose_message_or_worker_is_lost() -> None:
    waiting, building = ask(), ask()
    with session_scope() as s:
        s.execute(update(Dataset).where(Dataset.id == waiting.id).values(published_at=from_now(-1000)))
        s.execute(update(Dataset).where(Dataset.id == building.id).values(state=Work.RUNNING, lease_until=from_now(-1)))
    with read_scope() as s:
        assert (leases.unsent(s, Dataset), leases.expired(s, Dataset)) == ([waiting.id], [building.id])


def test_dataset_of_the_same_slices_is_recognised() -> None:
    first = built(many())
    second = ask()
    with read_scope() as s:
        assert datasets.twin_of(s, second, "d" * 64) == first.label
        assert datasets.twin_of(s, second, "e" * 64) is None


def test_a_split_keeps_groups_whole_and_classes_even() -> None:
    dataset = built(many())
    split = split_of(dataset)
    parts = parts_of(dataset, split)
    assert split.rule == "groups"
    assert split.leaks == {}
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 140, "validation": 20, "test": 40}
    for rows in parts.values():
        assert len({row.label for row in rows}) == 2
        assert sum(row.label for row in rows) * 2 == len(rows)
    homes = [{row.group for row in rows} for rows in parts.values()]
    assert sum(map(len, homes)) == len(set().union(*homes)) == 20
    with read_scope() as s:
        everything = rows_of(s, dataset.id, None, None)
    assert [row.row for row in everything] == list(range(200))
    assert sorted((row for rows in parts.values() for row in rows), key=lambda row: row.row) == everything


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    dataset = built(many())
    first, again, other = split_of(dataset), split_of(dataset), split_of(dataset, seed=8)
    assert first.id == again.id
    assert first.assignment == again.assignment
    assert other.id != first.id
    assert other.assignment != first.assignment


def test_groups_are_joined_by_near_identical_slices_unless_they_are_taken_as_given() -> None:
    rows = many()
    for first in range(0, 200, 20):  # each group shares a slice with the next
        rows[first + 9]["cluster"] = rows[first + 10]["cluster"] = first + 9
    dataset = built(rows)
    joined, as_given = split_of(dataset), split_of(dataset, groups_as_given=True)
    assert (joined.rule, as_given.rule) == ("groups", "groups as given")
    assert joined.leaks == {}
    assert all(joined.assignment[f"g{n:02d}"] == joined.assignment[f"g{n + 1:02d}"] for n in range(0, 20, 2))
    assert as_given.leaks.keys() == {"near-identical-slices"}
    assert split_of(dataset, groups_as_given=True).id == as_given.id


def test_two_requests_at_once_get_one_split() -> None:
    dataset = built(many())
    made: list[int] = []
    threads = [threading.Thread(target=lambda: made.append(split_of(dataset).id)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1


def test_seed_that_a_database_cannot_hold_is_refused() -> None:
    dataset = built(many())
    assert split_of(dataset, seed=2**31 - 1).seed == 2**31 - 1
    for seed in (-1, 2**31):
        with pytest.raises(DatasetError, match="a seed is a whole number from 0 to 2147483647"):
            split_of(dataset, seed=seed)


def test_groups_that_share_a_near_identical_slice_stay_together() -> None:
    rows = many()
    for n in range(0, 200, 40):  # the groups g00 and g02, g04 and g06, … of non-COVID
        rows[n + 20]["cluster"] = rows[n]["cluster"]
    dataset = built(rows)
    for seed in range(5):
        split = split_of(dataset, seed=seed)
        assert split.leaks == {}
        assert all(split.assignment[f"g{n:02}"] == split.assignment[f"g{n + 2:02}"] for n in range(0, 20, 4))


def test_three_groups_a_class_are_just_enough() -> None:
    dataset = built(groups_of({f"g{n}": (50, 0) if n < 3 else (0, 3) for n in range(6)}))
    counts = {part: Counter(row.label for row in rows) for part, rows in parts_of(dataset, split_of(dataset)).items()}
    assert counts == {part: Counter({1: 50, 0: 3}) for part in PARTS}


def test_too_few_groups_of_a_class_are_refused() -> None:
    dataset = built(groups_of({"a": (9, 0), "b": (9, 0), "c": (9, 0), "d": (0, 9), "e": (0, 9)}))
    with pytest.raises(DatasetError, match=r"has no non-COVID slices; each class needs slices of three groups"):
        split_of(dataset)


def test_a_dataset_that_is_not_built_cannot_be_split() -> None:
    dataset = ask()
    with pytest.raises(DatasetError, match="site/1 is not ready: it is still being built"):
        split_of(dataset)
    own = claim()
    with session_scope() as s:
        datasets.fail_dataset(s, own, "the class COVID is empty")
    with read_scope() as s:
        failed = s.get_one(Dataset, dataset.id)
    with pytest.raises(DatasetError, match="the class COVID is empty"):
        split_of(failed)


def given(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A part for every slice, by its group: the first 14 train, then 2 validate, then 4 test."""
    for row in rows:
        number = int(row["group"][1:])
        row["given_part"] = "train" if number < 14 else "validation" if number < 16 else "test"
    return rows


def test_split_in_the_csv_is_used_unchanged() -> None:
    dataset = built(given(many()))
    split = split_of(dataset)
    assert (split.rule, split.leaks) == ("given", {})
    assert split_of(dataset, seed=99).id == split.id
    assert {part: len(rows) for part, rows in parts_of(dataset, split).items()} == {
        "train": 140,
        "validation": 20,
        "test": 40,
    }


def test_every_leak_of_a_given_split_is_found_and_named() -> None:
    rows = given(many())
    rows[5]["given_part"] = "test"  # a slice of the group g00, which trains
    rows[10] |= {"pixels_sha256": "same", "cluster": 10}
    rows[195] |= {"pixels_sha256": "same", "cluster": 10}  # g01 trains, g19 tests
    rows[20]["cluster"] = rows[165]["cluster"] = 20  # g02 trains, g16 tests
    rows[31]["pixels_sha256"] = rows[41]["pixels_sha256"] = "twice"  # g03 and g04, both train
    leaks = split_of(built(rows)).leaks
    assert {name: leak["count"] for name, leak in leaks.items()} == {
        "identical-slices": 1,
        "near-identical-slices": 1,
        "shared-groups": 1,
        "conflicting-labels": 1,
    }
    assert leaks["identical-slices"]["examples"] == ["10.png (train); 195.png (test)"]
    assert leaks["near-identical-slices"]["examples"] == ["20.png (train); 165.png (test)"]
    assert leaks["shared-groups"]["examples"] == ["g00: test, train"]
    assert leaks["conflicting-labels"]["examples"] == ["31.png (COVID); 41.png (non-COVID)"]


def test_group_in_several_parts_of_a_given_split_lists_them() -> None:
    rows = given(many())
    rows[0]["given_part"] = "test"
    dataset = built(rows)
    split = split_of(dataset)
    assert split.assignment["g00"] == ["test", "train"]
    parts = parts_of(dataset, split)
    assert 0 in {row.row for row in parts["test"]}
    assert {row.row for row in parts["train"]} >= set(range(1, 10))


def test_a_given_split_whose_part_lacks_a_class_is_refused() -> None:
    rows = given(many())
    for row in rows:
        row["given_part"] = row["given_part"] if row["given_part"] != "validation" else "train"
    dataset = built(rows)
    with pytest.raises(DatasetError, match="the CSV gives cannot be used: validation has no COVID, validation has no"):
        split_of(dataset)


def test_rows_of_an_unknown_part_are_refused() -> None:
    dataset, other = built(many()), built(many(6, 2))
    split = split_of(dataset)
    with read_scope() as s:
        for arguments in ((dataset.id, split, "exam"), (dataset.id, split, None), (dataset.id, None, "test"),
                          (other.id, split, "test")):  # fmt: skip
            with pytest.raises(DatasetError, match="one of its parts"):
                rows_of(s, *arguments)


def test_joining_follows_chains_of_clusters() -> None:
    chain = [SplitCandidate(n, f"{n}.png", 1, group, cluster, f"p{n}", None)
             for n, (group, cluster) in enumerate([("a", 0), ("b", 0), ("b", 2), ("c", 2), ("d", 4)])]  # fmt: skip
    assert [unit.groups for unit in joined_groups(chain)] == [["a", "b", "c"], ["d"]]
    drawn = draw(joined_groups(chain), 1)
    assert drawn["a"] == drawn["b"] == drawn["c"]


def test_slices_that_were_not_compared_have_no_duplicates() -> None:
    rows = [row | {"cluster": None, "pixels_sha256": None} for row in many()]
    split = split_of(built(rows))
    assert split.leaks == {}
    assert set(split.assignment.values()) == set(PARTS)


def test_files_that_datasets_and_checkpoints_name_are_not_reaped() -> None:
    from db.models import TrainingRun

    with session_scope() as s:
        dataset = datasets.create_dataset(
            s, name="site", user=None, files=[FILE], labels=ReceivedFile("labels.csv", "6" * 64, 1, "file", 1)
        )
        s.add(TrainingRun(preset="quick", seed=1, checkpoint={"stage": 1, "files": {"weights.h5": "7" * 64}}))
    finish(claim(), [slice_of(0, 1, "g", sha256="8" * 64)])
    named = [FILE.sha256, "6" * 64, "7" * 64, "8" * 64, "a" * 64]
    assert dataset.labels_sha256 == "6" * 64
    assert reap.unnamed([*named, "9" * 64]) == ["9" * 64]


def reviewed_job(owner: User, slices: int = 4) -> tuple[Job, list[int]]:
    """A job of prepared slices, and their ids."""
    with session_scope() as s:
        job, _ = jobs.create_job(s, owner=owner, files=[FILE])
        upload = s.scalars(select(Upload.id).where(Upload.job_id == job.id)).one()
        chunk = Chunk(job_id=job.id, size=slices, array_sha256="c" * 64)
        s.add(chunk)
        s.flush()
        rows = [Slice(job_id=job.id, upload_id=upload, ordinal=n, name=f"{n}.png", chunk_id=chunk.id, array_row=n)
                for n in range(slices)]  # fmt: skip
        s.add_all(rows)
        s.flush()
        return job, [row.id for row in rows]


def review(slice_id: int, user: User, label: int | None, age: float = 0.0, *, blind: bool = False) -> None:
    with session_scope() as s:
        s.add(Review(slice_id=slice_id, user_id=user.id, label=label, blind=blind, created_at=from_now(-age)))


@pytest.mark.usefixtures("champion")
def test_newest_label_of_an_admin_counts_before_the_owners(ann: User, bob: User) -> None:
    with session_scope() as s:
        admins = [User(name=name, is_admin=True) for name in ("carl", "dora")]
        s.add_all(admins)
    job, (first, second, third, fourth) = reviewed_job(ann)
    review(first, ann, 1)
    review(second, ann, 1)
    review(second, admins[0], 1, age=20)
    review(second, admins[1], 0, age=10)
    review(third, bob, 1)  # neither owns the job nor is an admin
    review(fourth, ann, 1, age=10)
    review(fourth, admins[0], None)  # removed
    with read_scope() as s:
        found = [(each.slice.id, each.label) for each in datasets.reviewed_slices(s, [job.id])]
    assert found == [(first, 1), (second, 0), (fourth, 1)]


@pytest.mark.usefixtures("champion")
def test_reviewed_slice_states_if_its_label_is_blind_and_if_readers_disagree(ann: User, bob: User) -> None:
    with session_scope() as s:
        s.add(admin := User(name="carl", is_admin=True))
    job, (first, second, third, fourth) = reviewed_job(ann)
    review(first, ann, 1, blind=True)
    review(first, bob, 0)  # neither owns the job nor is an admin
    review(second, ann, 1, blind=True)
    review(second, admin, 0)
    review(third, ann, 1)
    review(third, admin, 1, blind=True)
    review(fourth, ann, 1, blind=True)
    review(fourth, admin, None)
    with read_scope() as s:
        found = {each.slice.id: (each.blind, each.is_contested) for each in datasets.reviewed_slices(s, [job.id])}
    assert found == {first: (True, False), second: (False, True), third: (True, False), fourth: (True, False)}


@pytest.mark.usefixtures("champion")
def test_only_jobs_with_reviews_make_a_dataset(ann: User) -> None:
    job, ids = reviewed_job(ann)

    def make(*job_ids: str) -> Dataset:
        with session_scope() as s:
            return datasets.create_from_reviews(s, name="reviewed", user=ann, job_ids=job_ids)

    review(ids[1], ann, None)  # removed
    for job_ids, why in (((), "at least one job"), (("nothing",), "no job nothing"), ((job.id,), "is labelled yet")):
        with pytest.raises(DatasetError, match=why):
            make(*job_ids)
    review(ids[0], ann, 1)
    assert make(job.id, job.id).sources == [{"job": job.id}]
