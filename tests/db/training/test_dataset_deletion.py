"""Datasets are deleted on both databases: nothing uses them at once, every name is erased, and no check gets easier."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from db.access.request_keys import KeyedRequest, made_before, remember
from db.database import read_scope, session_scope
from db.datasets import datasets
from db.datasets.deletion import NotDeletable
from db.datasets.slices import DatasetGone, split_candidates
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationError
from db.evaluation.version_page import version_page
from db.ledger.jobs import ReceivedFile
from db.models import (
    Dataset,
    Evaluation,
    LabelledSlice,
    ModelVersion,
    ReleasedFile,
    RequestKey,
    Split,
    TrainingRun,
    User,
    Work,
)
from db.models.base import Base
from db.models.documents import FindingRule, Tuning
from db.training import caveats, dataset_deletion, lineage, runs, splits
from db.training.dataset_deletion import delete_dataset
from db.training.runs import NewRun
from tests.builders.datasets import new_split
from worker import sweep

pytestmark = pytest.mark.usefixtures("database")
on_postgres = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

FILE, PATIENT, PIXELS = "MARKED-file.png", "MARKED-patient", "f00d" * 16
MARKS = (FILE, PATIENT, PIXELS, "MARKED")
SLICES = 6
HASHES = {"zip": "a" * 64, "labels": "b" * 64, "array": "c" * 64, "slice": "d" * 64, "scores": "e" * 64}
REPORT = {
    "labels_from": FILE,
    "groups_from": {"CSV": SLICES},
    "counts": {"COVID": 3, "non-COVID": 3, "rejected": 1},
    "groups": {"count": 2, "COVID": 1, "non-COVID": 1, "slices": {PATIENT: {"COVID": 3, "non-COVID": 0}}},
    "identical": {"within": 2, "examples_within": [[FILE, FILE]]},
    "near_identical": {"across": 1, "examples_across": [[FILE, FILE]]},
    "left_out": {"no_label": {"count": 1, "examples": [FILE]}},
    "warnings": [f"the column {PATIENT} is ignored"],
}


def add_dataset(name: str = "site", mark: str = "MARKED", **columns: Any) -> Dataset:
    """A built dataset whose files, groups and pixels have names that are found again. Each slice is a group."""
    with session_scope() as s:
        source = {"filename": f"{mark}.zip", "sha256": HASHES["zip"], "size": 1, "given": None}
        files = {"sources": [source], "labels_sha256": HASHES["labels"], "arrays": [HASHES["array"]]}
        built = {"state": Work.DONE, "size": SLICES, "report": REPORT, "error": f"put off: {FILE}", "sha256": name}
        dataset = Dataset(name=name, number=1, **files | built | columns)
        s.add(dataset)
        s.flush()
        for row in range(SLICES):
            named = {"name": FILE, "group": f"{PATIENT}-{row}", "pixels_sha256": f"{PIXELS}{row}", "source": "site"}
            hashes = {"sha256": HASHES["slice"], "perceptual_hash": "f00d", "detail": FILE}
            s.add(LabelledSlice(dataset_id=dataset.id, ordinal=row, row=row, label=row % 2, **named, **hashes))
    return dataset


def add_split(dataset: Dataset, **leaks: Any) -> Split:
    with session_scope() as s:
        parts = {f"{PATIENT}-{row}": "test" if row >= SLICES // 2 else "train" for row in range(SLICES)}
        split = new_split(dataset.id, parts)
        split.leaks = leaks
        s.add(split)
    return split


def add_version(name: str, split: Split | None = None, *before: str, **columns: Any) -> ModelVersion:
    values: dict[str, Any] = {"files": {}, "metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1"}
    with session_scope() as s:
        version = ModelVersion(name=name, number=1, threshold=0.5, temperature=1.0, **values | columns)
        known = {"id": split.id, "dataset": s.get_one(Split, split.id).dataset.label} if split else None
        version.facts = {"split": known, "lineage": list(before), "dataset": known and known["dataset"]}
        s.add(version)
    return version


def add_run(dataset: Dataset, split: Split, version: ModelVersion | None = None, **columns: Any) -> TrainingRun:
    with session_scope() as s:
        run = TrainingRun(preset="quick", seed=7, dataset_id=dataset.id, split_id=split.id, state=Work.DONE)
        run.model_version_id = version.id if version else None
        for column, value in columns.items():
            setattr(run, column, value)
        s.add(run)
    return run


def add_evaluation(dataset: Dataset, version: ModelVersion, **columns: Any) -> Evaluation:
    with session_scope() as s:
        known = {"dataset_id": dataset.id, "model_version_id": version.id, "scores_sha256": HASHES["scores"]}
        evaluation = Evaluation(**{"state": Work.DONE, "result": {"n": SLICES, "recall": 0.9}} | known | columns)
        s.add(evaluation)
    return evaluation


def delete(dataset: Dataset, who: str = "ann") -> None:
    with session_scope() as s:
        delete_dataset(s, s.get_one(Dataset, dataset.id), who)


def erase_all() -> None:
    """Erase all deleted datasets, as many rounds of the sweeper do."""
    for _ in count():
        with session_scope() as s:
            if not dataset_deletion.remove_some(s):
                return


def marked() -> dict[str, int]:
    """How many rows of each table hold a marked name."""
    found = {}
    with read_scope() as s:
        for table in Base.metadata.sorted_tables:
            rows = [json.dumps(list(row), default=str) for row in s.execute(select(table))]
            if number := sum(any(mark in row for mark in MARKS) for row in rows):
                found[table.name] = number
    return found


def released() -> list[str]:
    with read_scope() as s:
        return list(s.scalars(select(ReleasedFile.sha256)))


def test_names_of_files_groups_and_pixels_are_erased_from_every_table_and_results_stay() -> None:
    dataset = add_dataset()
    split = add_split(dataset, **{"shared-groups": {"count": 4, "examples": [PATIENT]}})
    version = add_version("lungs", split, dataset_hash=dataset.sha256)
    run = add_run(dataset, split, version)
    evaluation = add_evaluation(dataset, version, split_id=split.id, part="test")
    assert marked() == {"dataset": 1, "labelled_slice": SLICES, "dataset_split": 1}
    delete(dataset)
    erase_all()
    assert marked() == {}
    assert set(released()) == set(HASHES.values())
    with read_scope() as s:
        kept = s.get_one(Dataset, dataset.id)
        assert (kept.label, kept.size, kept.sha256, kept.sources, kept.arrays) == ("site/1", SLICES, "site", [], [])
        assert kept.report.as_json() == {
            "blind_labels": 0,
            "shared_labels": 0,
            "contested_labels": 0,
            "labelled_files": {},
            "odd_hu": {},
            "groups_from": {"CSV": SLICES},
            "counts": {"COVID": 3, "non-COVID": 3, "rejected": 1},
            "groups": {"count": 2, "COVID": 1, "non-COVID": 1, "slices": {}},
            "identity": {},
            "sizes": {}, "modes": {}, "formats": {}, "splits": {},
            "identical": {"within": 2, "across": 0},
            "near_identical": {"within": 0, "across": 1},
            "largest_cluster": {},
            "left_out": {"no_label": {"count": 1}},
            "shortcuts": None,
        }  # fmt: skip
        assert (s.get_one(Split, split.id).assignment, s.get_one(Split, split.id).leaks) == (
            {},
            {"shared-groups": {"count": 4, "examples": []}},
        )
        assert s.get_one(Evaluation, evaluation.id).result == {"n": SLICES, "recall": 0.9}
        view = runs.run_view(s, s.get_one(TrainingRun, run.id))
        assert (view.dataset, view.dataset_deleted, view.model_version) == ("site/1", True, "lungs/1")
        page = version_page(s, s.get_one(ModelVersion, version.id))
        assert (page.dataset and page.dataset.id, page.has_test_part, page.ready_datasets) == (dataset.id, False, [])


def test_deleted_dataset_is_not_found_and_cannot_be_used(ann: User) -> None:
    dataset = add_dataset()
    split, version = add_split(dataset), add_version("lungs")
    drawn = new_split(dataset.id, {}, seed=8)
    delete(dataset)
    with read_scope() as s:
        assert [datasets.find_dataset(s, label) for label in ("site", "site/1", str(dataset.id))] == [None] * 3
        assert datasets.list_datasets(s) == []
        assert datasets.twin_of(s, Dataset(id=0, name="site", sources=[]), "site") is None
    launch = NewRun(dataset=dataset, split=split, preset="quick", config={}, seed=7)
    acts: list[Callable[[Session], object]] = [
        lambda s: runs.create_run(s, launch, ann),
        lambda s: splits.keep_split(s, drawn),
        lambda s: delete_dataset(s, dataset, "ann"),
    ]
    for act in acts:
        with pytest.raises(DatasetGone, match="site/1 is deleted"), session_scope() as s:
            act(s)
    for request in (evaluations.request, evaluations.request_check):
        with pytest.raises(EvaluationError, match="site/1 is deleted"), session_scope() as s:
            request(s, version=version, dataset=dataset)


def test_name_and_number_are_not_used_again() -> None:
    dataset = add_dataset()
    delete(dataset)
    erase_all()
    with session_scope() as s:
        file = ReceivedFile("a.zip", "0" * 64, 10, "zip", 1)
        assert datasets.create_dataset(s, name="site", user=None, files=[file]).label == "site/2"
    with read_scope() as s:
        found = datasets.find_dataset(s, "site")
        assert found is not None
        assert found.label == "site/2"


def test_key_of_a_deleted_dataset_makes_a_new_one(ann: User) -> None:
    dataset = add_dataset()
    request = KeyedRequest(ann.id, "k", "dataset", "0")
    with session_scope() as s:
        remember(s, request, dataset.id)
        remember(s, KeyedRequest(ann.id, "another", "run", "0"), dataset.id)
    delete(dataset)
    with session_scope() as s:
        assert made_before(s, request) is None
        assert list(s.scalars(select(RequestKey.key))) == ["another"]


def building() -> tuple[Dataset, str]:
    return add_dataset(state=Work.RUNNING), "dataset_building"


def in_a_run() -> tuple[Dataset, str]:
    dataset = add_dataset()
    add_run(dataset, add_split(dataset), state=Work.READY)
    return dataset, "run_open"


def behind_a_run() -> tuple[Dataset, str]:
    dataset, other = add_dataset(), add_dataset("other")
    child = add_version("child", add_split(other), add_version("parent", add_split(dataset)).label)
    add_run(other, add_split(other), state=Work.RUNNING, from_version_id=child.id)
    return dataset, "run_open"


def in_an_evaluation() -> tuple[Dataset, str]:
    dataset = add_dataset()
    add_evaluation(dataset, add_version("lungs"), state=Work.RUNNING)
    return dataset, "evaluation_open"


def behind_an_evaluation() -> tuple[Dataset, str]:
    dataset, other = add_dataset(), add_dataset("other")
    add_evaluation(other, add_version("lungs", add_split(dataset)), state=Work.RUNNING)
    return dataset, "evaluation_open"


@pytest.mark.parametrize("use", [building, in_a_run, behind_a_run, in_an_evaluation, behind_an_evaluation])
def test_dataset_in_use_is_deleted_later(use: Callable[[], tuple[Dataset, str]]) -> None:
    dataset, code = use()
    with pytest.raises(NotDeletable, match="site/1") as refused:
        delete(dataset)
    assert refused.value.code == code
    with session_scope() as s:
        for table in (Dataset, TrainingRun, Evaluation):
            s.execute(update(table).values(state=Work.FAILED))
    delete(dataset)


def test_waiting_evaluations_do_not_keep_a_dataset() -> None:
    """No evaluation worker may be running, and nobody can cancel an evaluation."""
    dataset, other = add_dataset(), add_dataset("other")
    version = add_version("lungs", add_split(dataset))
    with session_scope() as s:
        known = {"version": s.get_one(ModelVersion, version.id)}
        ids = [evaluations.request(s, dataset=one, **known).id for one in (dataset, other)]
    delete(dataset)
    with read_scope() as s:
        own, elsewhere = (s.get_one(Evaluation, evaluation_id) for evaluation_id in ids)
        assert (own.state, own.error) == (Work.FAILED, "the dataset site/1 was deleted before the evaluation began")
        assert own.finished_at is not None
        assert elsewhere.state == Work.READY, "its slices are not deleted"


@on_postgres
def test_claim_and_deletion_do_not_pass_each_other() -> None:
    dataset = add_dataset()
    evaluation = add_evaluation(dataset, add_version("lungs"), state=Work.READY)
    with session_scope() as deleting:
        delete_dataset(deleting, deleting.get_one(Dataset, dataset.id), "ann")
        with session_scope() as s:
            assert evaluations.claim(s, "w", evaluation.id) is None
    with session_scope() as s:
        assert evaluations.claim(s, "w", evaluation.id) is None


def test_slices_are_erased_in_batches_and_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_deletion, "ROWS", 4)
    dataset, other = add_dataset(), add_dataset("other")
    delete(dataset)

    def left(of: Dataset) -> int:
        with read_scope() as s:
            return s.scalar(select(func.count()).where(LabelledSlice.dataset_id == of.id)) or 0

    numbers = []
    for _ in range(3):
        with session_scope() as s:
            assert dataset_deletion.remove_some(s)
        numbers.append(left(dataset))
    assert (numbers, left(other)) == ([2, 0, 0], SLICES)
    with session_scope() as s:
        assert not dataset_deletion.is_any_left(s)
        assert not dataset_deletion.remove_some(s)


def test_erasure_goes_on_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_deletion, "ROWS", 1)
    monkeypatch.setattr(sweep, "BATCHES", 3)
    dataset = add_dataset()
    add_split(dataset)
    delete(dataset)
    rows: list[int] = []
    for _ in range(4):
        with suppress(KeyboardInterrupt), session_scope() as s:
            dataset_deletion.remove_some(s)
            raise KeyboardInterrupt
        rows.append(sum(marked().values()))
        sweep.sweep()
    assert rows == [SLICES + 2, SLICES - 1, 2, 0]


@on_postgres
def test_two_sweepers_do_not_wait_for_each_other() -> None:
    delete(add_dataset())
    with session_scope() as one:
        assert dataset_deletion.remove_some(one)
        with session_scope() as other:
            other.execute(text("SET LOCAL lock_timeout = '100ms'"))
            assert not dataset_deletion.remove_some(other)


@on_postgres
@pytest.mark.parametrize("what", ["run", "evaluation", "split"])
def test_deletion_waits_for_what_is_being_requested(what: str) -> None:
    dataset = add_dataset()
    split, version = add_split(dataset), add_version("lungs")
    with session_scope() as requesting:
        if what == "run":
            runs.create_run(requesting, NewRun(dataset=dataset, split=split, preset="quick", config={}, seed=7))
        elif what == "evaluation":
            evaluations.request(requesting, version=version, dataset=dataset)
        else:
            splits.keep_split(requesting, new_split(dataset.id, {}, seed=8))
        with session_scope() as s:
            s.execute(text("SET LOCAL lock_timeout = '100ms'"))
            with pytest.raises(OperationalError):
                delete_dataset(s, s.get_one(Dataset, dataset.id), "ann")
            s.rollback()


def test_deletion_is_logged_with_who_did_it_and_without_a_name(caplog: pytest.LogCaptureFixture) -> None:
    dataset = add_dataset()
    with caplog.at_level(logging.INFO):
        delete(dataset)
        erase_all()
    first, last = [vars(record) for record in caplog.records if hasattr(record, "dataset")]
    assert (first["dataset"], first["user"], last["dataset"]) == (dataset.id, "ann", dataset.id)
    assert "MARKED" not in caplog.text
    assert "site" not in caplog.text


PICTURES = {"report.html": "1" * 64, "mistakes.png": "2" * 64, "augmented.png": "3" * 64}
REST = {"package.json": "4" * 64, "roc.png": "5" * 64}


def test_versions_lose_their_pictures_of_slices_at_once_and_others_keep_theirs() -> None:
    dataset = add_dataset()
    made = add_version("made", add_split(dataset), files=PICTURES | REST, dataset_hash=dataset.sha256)
    imported = add_version("imported", dataset_hash=dataset.sha256, files=PICTURES | REST)
    other = add_version("other", files=PICTURES | REST, dataset_hash="other")
    delete(add_dataset("failed", state=Work.FAILED, sha256=None))
    assert released() == []
    delete(dataset)
    assert [files_of(version) for version in (made, imported, other)] == [REST, REST, PICTURES | REST]
    assert set(released()) == set(PICTURES.values())


@pytest.mark.parametrize("own_first", [False, True])
def test_pictures_of_slices_stay_until_the_last_dataset_with_these_slices_is_deleted(*, own_first: bool) -> None:
    own, copy = add_dataset(sha256="9"), add_dataset("copy", sha256="9")
    version = add_version("lungs", add_split(own), files=PICTURES | REST, dataset_hash="9")
    first, last = (own, copy) if own_first else (copy, own)
    delete(first)
    assert (files_of(version), released()) == (PICTURES | REST, [])
    delete(last)
    assert (files_of(version), set(released())) == (REST, set(PICTURES.values()))


@on_postgres
def test_two_deletions_of_the_same_slices_do_not_pass_each_other() -> None:
    """Each would take the other's dataset for one that is kept."""
    one, copy = add_dataset(sha256="9"), add_dataset("copy", sha256="9")
    with session_scope() as first:
        delete_dataset(first, first.get_one(Dataset, one.id), "ann")
        with session_scope() as second:
            second.execute(text("SET LOCAL lock_timeout = '100ms'"))
            with pytest.raises(OperationalError):
                delete_dataset(second, second.get_one(Dataset, copy.id), "ann")
            second.rollback()


def files_of(version: ModelVersion) -> dict[str, str]:
    with read_scope() as s:
        return s.get_one(ModelVersion, version.id).files


def test_splits_are_erased_after_all_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice whose split has lost its parts could not be read."""
    monkeypatch.setattr(dataset_deletion, "ROWS", 1)
    dataset = add_dataset()
    split = add_split(dataset)
    delete(dataset)
    while split_candidates_of(dataset):
        with session_scope() as s:
            assert len(s.get_one(Split, split.id).assignment) == SLICES
            dataset_deletion.remove_some(s)


def split_candidates_of(dataset: Dataset) -> int:
    with read_scope() as s:
        return len(split_candidates(s, dataset.id))


@pytest.fixture
def child() -> tuple[ModelVersion, Dataset, Split]:
    """A version whose parent was trained on the dataset `site`, and another dataset with the same slices."""
    dataset, other = add_dataset(), add_dataset("other")
    parent = add_version("parent", add_split(dataset))
    split = add_split(other)
    return add_version("child", split, parent.label), other, split


def test_what_a_deleted_dataset_trained_is_not_known_any_more_and_said(
    child: tuple[ModelVersion, Dataset, Split],
) -> None:
    version, other, split = child
    with session_scope() as s:
        s.get_one(Split, split.id).assignment = {f"{PATIENT}-{row}": "test" for row in range(SLICES)}
    with read_scope() as s:
        parent, split = s.get_one(ModelVersion, version.id - 1), s.get_one(Split, split.id)
        assert (lineage.known_in_test(s, version, split), caveats.why_unknown(s, version, split)) == (3, "")
        assert lineage.find_seen(s, parent, split)
        site = s.get_one(Dataset, 1)
    delete(site)
    for _ in range(2):
        with read_scope() as s:
            line = "parent/1 was trained on site/1, which is deleted; its slices may include these"
            assert caveats.optimism_notes(s, [version], other.id, split, "test") == [line]
            assert caveats.unknown_sources(s, version) == [line]
            assert [one.label for one in lineage.deleted_sources(s, version)] == ["site/1"]
            assert [one.label for one in lineage.trained_on(s, version)] == ["other/1"]
            assert caveats.why_unknown(s, version, split).startswith("site/1 is deleted, so whether these slices")
            assert "seen-by-parent" in runs.check_split(s, other, split, parent, ["seen-by-parent"])
        erase_all()


@on_postgres
def test_deletion_while_slices_are_read_is_noticed(child: tuple[ModelVersion, Dataset, Split]) -> None:
    """Slices that a reader did not get would otherwise count as slices that trained nothing."""
    version, _, split = child
    with read_scope() as s:
        version, split = s.get_one(ModelVersion, version.id), s.get_one(Split, split.id)
        loaded = s.get_one(Dataset, 1)  # the session does not load it again
        assert caveats.why_unknown(s, version, split) == ""
        with session_scope() as other:
            delete_dataset(other, other.get_one(Dataset, 1), "ann")
        erase_all()
        assert caveats.why_unknown(s, version, split).startswith("site/1 is deleted")
        assert lineage.deleted_sources(s, version) == [loaded]


def test_dataset_with_the_same_slices_stands_in_for_a_deleted_one() -> None:
    dataset, same, other = add_dataset(sha256="9"), add_dataset("same", sha256="9"), add_dataset("other")
    version = add_version("lungs", add_split(dataset), dataset_hash="9")
    delete(dataset)
    erase_all()
    with read_scope() as s:
        assert lineage.deleted_sources(s, version) == []
        assert caveats.unknown_sources(s, version) == []
        assert [one.id for one in lineage.trained_on(s, version)] == [same.id]
        assert len(lineage.known_in(s, version, other.id).seen) == SLICES, "nobody knows which of them were in train"


def test_versions_own_test_part_stays_apart_if_its_dataset_is_deleted() -> None:
    dataset = add_dataset()
    clean, leaking = add_split(dataset), add_split(dataset, **{"shared-groups": {"count": 1, "examples": [PATIENT]}})
    version, doubtful = add_version("lungs", clean), add_version("doubtful", leaking)
    delete(dataset)
    erase_all()
    with read_scope() as s:
        clean, leaking = s.get_one(Split, clean.id), s.get_one(Split, leaking.id)
        assert caveats.why_unknown(s, version, clean) == ""
        assert caveats.optimism_notes(s, [version], dataset.id, clean, "test") == []
        for one, split in ((doubtful, leaking), (version, leaking)):
            assert caveats.why_unknown(s, one, split).startswith("site/1 is deleted")
            [note] = caveats.optimism_notes(s, [one], dataset.id, split, "test")
            assert note.startswith(f"site/1 is deleted, so whether {one.label}")


def test_deleted_tuning_slices_are_said_and_earlier_checks_hold() -> None:
    dataset, other = add_dataset(), add_dataset("other")
    tuned = Tuning(dataset="site/1", dataset_hash=dataset.sha256, engine="fake", seed=7, groups={})
    rule = FindingRule(rule="max", version=2, threshold=0.5, tuned=tuned)
    version = add_version("lungs", finding_rule=rule)
    metrics = {"rule": rule.untuned.as_json(), "tuned_slices": 3, "tuned_on": dataset.sha256}
    check = add_evaluation(other, version, result={"engine": "fake", "by_group": metrics})
    with read_scope() as s:
        assert caveats.unknown_tuning(s, rule) == []
        assert len(lineage.tuned_on(s, rule, other.id)) == SLICES
    delete(dataset)
    erase_all()
    with read_scope() as s:
        assert (lineage.tuning_dataset(s, rule), lineage.tuned_on(s, rule, other.id)) == (None, [])
        [line] = caveats.unknown_tuning(s, rule)
        assert line == "the rule of findings was tuned on site/1, which is deleted; its slices may include these"
    with session_scope() as s:
        again = evaluations.request_check(s, version=version, dataset=other)
        assert (again.id, again.state) == (check.id, Work.DONE), "it knows more than a new check would"
