"""Evaluations carried out for real with the fake engine: scores, metrics, comparisons, site checks, failures."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from db import broker, database
from db.clock import from_now
from db.database import read_scope, session_scope
from db.evaluation import evaluations
from db.evaluation.evaluations import EvaluationView, result_of
from db.evaluation.gate import PENDING, gate_of, request_gate
from db.evaluation.rule import NO_EVIDENCE, REFUSED
from db.installation import claim_storage
from db.models import Dataset, Evaluation, LabelledSlice, ModelVersion, Split, Work
from db.registry import champions
from db.settings import Settings
from db.storage import FileUnreadable, storage, store
from db.training.caveats import optimism_notes
from tests.builders import versions as builders
from tests.builders.datasets import add_dataset, add_split, delete_dataset
from tests.builders.leases import asked_to_stop
from tests.builders.statements import locked_at_first
from training.evaluation import evaluate_version as carried
from training.evaluation.evaluate_version import evaluate_next
from training.evaluation.intervals import end_without_a_mistake
from training.evaluation.metrics import measure
from training.evaluation.stored_scores import unpack
from training.evaluation.tune_findings import candidates
from training.evaluation.tune_version import tune_version
from training.tasks import evaluate
from worker.engines import load
from worker.engines.fake import FakeEngine
from worker.engines.interface import Scores
from worker.engines.load import Proven
from worker.engines.package import probability

AddVersion = Callable[..., ModelVersion]


@pytest.fixture
def add_version(settings: Settings) -> AddVersion:
    """Registers a version of the fake engine, with values of the test's choice."""
    return partial(builders.add_version, settings.home)


@pytest.fixture
def dataset(settings: Settings) -> Dataset:
    """Twelve groups of five slices; the engine is wrong on one slice of each. The storage is this database's."""
    with session_scope() as s:
        claim_storage(s)
    return add_dataset(wrong=1)


def ask(version: ModelVersion, dataset: Dataset, split: Split | None = None, part: str | None = None) -> int:
    with session_scope() as s:
        return evaluations.request(s, version=version, dataset=dataset, split=split, part=part).id


def seen(evaluation_id: int) -> EvaluationView:
    with read_scope() as s:
        return evaluations.evaluation_view(s.get_one(Evaluation, evaluation_id))


def test_version_is_measured_on_a_whole_dataset(add_version: AddVersion, dataset: Dataset) -> None:
    version = add_version(threshold=0.4, temperature=2.0)
    evaluation_id = ask(version, dataset)
    reported: list[float] = []
    assert evaluate_next("w", progress=reported.append)
    done = seen(evaluation_id)
    assert (done.state, done.progress, done.error) == ("finished", 1.0, None)
    with read_scope() as s:
        logit, _ = unpack(storage().local_path(s.get_one(Evaluation, evaluation_id).scores_sha256))
    labels = np.repeat(np.arange(12) % 2, 5)
    expected = measure(probability(logit, 2.0), labels, 0.4)
    assert {name: done.result[name] for name in expected} == pytest.approx(expected)
    assert expected["auc"] is not None
    assert expected["auc"] < 1
    assert (done.result["n"], done.result["groups"], done.result["engine"]) == (60, 12, "fake")
    assert reported == sorted(reported)
    assert reported[-1] == 1.0
    assert not evaluate_next("w")


def test_copies_of_a_slice_count_once_in_the_metrics_of_groups(add_version: AddVersion, dataset: Dataset) -> None:
    first, other = add_version(), add_version("other")
    evaluation_id = ask(first, dataset)
    assert evaluate_next("w")
    assert seen(evaluation_id).result["by_group"]["accuracy"] > 0.9
    with session_scope() as s:
        s.execute(update(LabelledSlice).values(sha256="0" * 64))
    evaluation_id = ask(other, dataset)
    assert evaluate_next("w")
    assert seen(evaluation_id).result["by_group"]["accuracy"] == 0, "the first slice of each group is wrong"


def under_three_names(dataset: Dataset) -> None:
    """Give each group of a dataset three names, and mark all its slices as near-identical."""
    with session_scope() as s:
        for row in s.scalars(select(LabelledSlice).where(LabelledSlice.dataset_id == dataset.id)):
            row.cluster, row.group = int(row.group.partition("-")[2]), f"{row.group}-{row.row % 3}"


def test_patients_under_several_names_do_not_count_several_times(add_version: AddVersion, settings: Settings) -> None:
    with session_scope() as s:
        claim_storage(s)
    copied, version, other = add_dataset("copied", 144, 24), add_version(), add_version("other")
    under_three_names(copied)
    evaluation_id = ask(version, copied)
    assert evaluate_next("w")
    result = seen(evaluation_id).result
    assert (result["named_groups"], result["groups"]) == (72, 24)
    assert result["class_groups"] == {"COVID": 12, "non-COVID": 12}
    assert result["site_check"]["verdict"] == NO_EVIDENCE
    assert result["site_check"]["reasons"][0] == "only 12 groups of COVID; at least 20 are needed"
    by_group = result["by_group"]
    assert (by_group["n"], by_group["named_groups"], by_group["groups"]) == (72, 72, 24)
    assert by_group["intervals"]["auc"][0] <= end_without_a_mistake(12)
    ask(other, copied)
    assert evaluate_next("w")
    with read_scope() as s:
        evaluation = s.get_one(Evaluation, evaluation_id)
        pair = result_of(evaluation).against["other/1"]["recall"]
        assert pair.high > 1 / 13, "the same two models on 12 groups; with 36 groups it would be 0.06"
        tuned = tune_version(evaluation, candidates(["max"]), 7, lambda: None).tuned
    assert tuned.groups == {"COVID": 12, "non-COVID": 12}
    assert tuned.named_groups == 72


def test_scores_are_in_the_order_of_the_rows_of_the_part(add_version: AddVersion, dataset: Dataset) -> None:
    version, split = add_version(), add_split(dataset)
    whole, part = ask(version, dataset), ask(version, dataset, split, "test")
    assert evaluate.name == broker.Queue.EVALUATION
    evaluate()  # the one that waits longest
    evaluate()
    with read_scope() as s:
        scores = [unpack(storage().local_path(s.get_one(Evaluation, i).scores_sha256))[0] for i in (whole, part)]
    assert scores[0].dtype == np.float32
    assert scores[1].tolist() == scores[0][30:].tolist()
    assert (seen(part).result["n"], seen(part).result["groups"]) == (30, 6)
    assert "site_check" not in seen(part).result


def test_two_versions_on_the_same_part_are_compared_and_the_gate_judges(
    add_version: AddVersion, dataset: Dataset
) -> None:
    split = add_split(dataset)
    facts = {"split": {"id": split.id, "dataset": "site/1"}, "floor": 0.7}
    old = add_version("old", facts=facts)
    new = add_version("new", facts=facts, threshold=0.97)  # it calls hardly any slice positive
    with session_scope() as s:
        champions.record_promotion(s, old, None, "the first")
        requested = request_gate(s, new)
    assert len(requested) == 2
    while evaluate_next("w"):
        pass
    with read_scope() as s:
        gate = gate_of(s, s.get_one(ModelVersion, new.id))
        mirrored = evaluations.find(s, version=old, dataset=dataset, split=split, part="test")
    assert gate.verdict == REFUSED
    assert gate.figures["recall"].second == pytest.approx(0.8)
    assert gate.figures["auc"].difference == 0.0
    assert gate.figures["recall"].high < 0
    assert "below the floor of 0.700" in gate.reasons[0]
    assert "its sensitivity is worse beyond chance" in gate.reasons[-1]
    assert result_of(mirrored).against["new/1"]["recall"].difference == -gate.figures["recall"].difference


def gone(old: ModelVersion) -> None:
    with session_scope() as s:
        s.execute(update(Evaluation).values(scores_sha256="0" * 64))


def damaged(old: ModelVersion) -> None:
    with read_scope() as s:
        [sha256] = s.scalars(select(Evaluation.scores_sha256).where(Evaluation.model_version_id == old.id))
    path = storage().local_path(str(sha256))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


class SurerEngine(FakeEngine):
    """Scores of its own: storing the same scores anew would mend a damaged file."""

    def predict(self, slices: np.ndarray) -> Scores:
        scores = super().predict(slices)
        return replace(scores, logit=scores.logit * 2)


@pytest.mark.parametrize("harm", [gone, damaged])
def test_lost_scores_are_not_compared_until_they_are_made_again(
    add_version: AddVersion,
    dataset: Dataset,
    harm: Callable[[ModelVersion], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = add_split(dataset)
    facts = {"split": {"id": split.id, "dataset": "site/1"}, "floor": 0.7}
    old, new = add_version("old", facts=facts), add_version("new", facts=facts)
    ask(old, dataset, split, "test")
    evaluate_next("w")
    with session_scope() as s:
        champions.record_promotion(s, old, None, "the first")
    harm(old)
    ask(new, dataset, split, "test")
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(load, "load_engine", lambda *_, **__: Proven(SurerEngine(), []))
        evaluate_next("w")
    with read_scope() as s:
        gate = gate_of(s, new)
    assert (gate.verdict, gate.figures) == (PENDING, {})
    with session_scope() as s:
        requested = request_gate(s, new)
    assert requested[-1].model_version_id == old.id
    for _ in requested:
        assert evaluate_next("w")
    with read_scope() as s:
        assert gate_of(s, new).figures["auc"].difference == 0.0


def test_site_check_says_whether_a_version_may_be_used(add_version: AddVersion, settings: Settings) -> None:
    version = add_version()
    good = ask(version, add_dataset("good", 180, 60))
    few = ask(version, add_dataset("few", 24, 12))
    bad = ask(version, add_dataset("bad", 120, 24, wrong=3))
    while evaluate_next("w"):
        pass
    assert seen(good).result["site_check"]["verdict"] == "may be used"
    assert seen(few).result["site_check"]["verdict"] == "not enough evidence"
    assert seen(few).result["site_check"]["more_groups"] == 46
    assert seen(bad).result["site_check"]["verdict"] == "may not be used"


@pytest.mark.slow
def test_slices_that_trained_the_version_or_its_parent_are_not_evidence(
    add_version: AddVersion, settings: Settings
) -> None:
    dataset = add_dataset("site", 180, 60)
    add_version("parent", dataset_hash="abc")
    child = add_version("child", facts={"dataset": "other/1", "lineage": ["parent/1", "gone/4"]})
    imported = add_version("imported", dataset_hash="abc")
    with session_scope() as s:
        s.get_one(Dataset, dataset.id).sha256 = "abc"
    made_on_another_site_1 = add_version("stranger", facts={"dataset": "site/1"}, dataset_hash="else")
    ids = [ask(version, dataset) for version in (child, imported, made_on_another_site_1)]
    while evaluate_next("w"):
        pass
    verdicts = [seen(each).result["site_check"]["verdict"] for each in ids]
    assert verdicts == ["not enough evidence", "not enough evidence", "may be used"]


def test_check_says_that_the_training_slices_of_an_imported_version_are_unknown(
    add_version: AddVersion, dataset: Dataset
) -> None:
    made_elsewhere = {"imported": {"lineage": ["pooled/1"]}}
    check = ask(add_version("imported", facts=made_elsewhere), dataset)
    assert evaluate_next("w")
    assert seen(check).result["site_check"]["reasons"][-2:] == [
        "imported/1 was trained on slices that this database does not have; they may include these",
        "imported/1 was made elsewhere from pooled/1, which may have seen these slices",
    ]


def verdict(version: ModelVersion, dataset: Dataset) -> str:
    evaluation = ask(version, dataset)
    assert evaluate_next("w")
    return str(seen(evaluation).result["site_check"]["verdict"])


@pytest.mark.slow
def test_slices_that_were_held_out_are_evidence(add_version: AddVersion, settings: Settings) -> None:
    known, anew = add_dataset("known", 360, 120), add_dataset("anew", 360, 120)
    split = add_split(known, 120)  # the second half of the groups, and so of the rows, was held out
    version = add_version(facts={"split": {"id": split.id, "dataset": "known/1"}, "dataset": "known/1"})
    with session_scope() as s:
        for each in s.scalars(select(LabelledSlice).where(LabelledSlice.dataset_id == anew.id)):
            if each.row is not None and each.row < 180:
                s.delete(each)
    assert verdict(version, anew) == "may be used"
    assert verdict(version, known) == "not enough evidence"


@pytest.mark.slow
def test_check_says_if_slices_that_trained_the_version_are_gone(add_version: AddVersion, dataset: Dataset) -> None:
    known, other = add_dataset("known"), add_dataset("other", seed=1)
    split = add_split(known)
    version = add_version(facts={"split": {"id": split.id, "dataset": "known/1"}, "dataset": "known/1"})
    storage().delete(known.arrays[0])
    check = ask(version, other)
    assert evaluate_next("w")
    assert "slices that the model learned from are gone" in seen(check).result["site_check"]["reasons"][-1]


@pytest.mark.parametrize("is_deleted", [False, True])
def test_site_check_does_not_pass_because_training_slices_are_deleted(
    add_version: AddVersion, settings: Settings, is_deleted: bool
) -> None:
    known, anew = add_dataset("known", 180, 60), add_dataset("anew", 180, 60)  # the same slices
    facts = {"split": {"id": add_split(known, 60).id, "dataset": "known/1"}, "dataset": "known/1"}
    evaluation_id = ask(add_version(facts=facts), anew)
    if is_deleted:
        delete_dataset(known)
    assert evaluate_next("w")
    check = seen(evaluation_id).result["site_check"]
    assert check["verdict"] == "not enough evidence"
    if is_deleted:
        assert check["reasons"][-2:] == [
            "180 slices that the model learned from are gone, so slices that look like them could not be found",
            "fake/1 was trained on known/1, which is deleted; its slices may include these",
        ]


def test_slices_without_a_known_patient_are_not_evidence(add_version: AddVersion, settings: Settings) -> None:
    dataset = add_dataset("site", 180, 60)
    with session_scope() as s:
        s.get_one(Dataset, dataset.id).report = {"groups_from": {"folders": 170, "near-identical slices": 10}}
    assert verdict(add_version(), dataset) == "not enough evidence"


def test_check_mentions_many_files_that_were_left_out(add_version: AddVersion, settings: Settings) -> None:
    dataset = add_dataset("site", 180, 60)
    with session_scope() as s:
        files = {"COVID": {"files": 1090, "left_out": 1000}, "non-COVID": {"files": 90, "left_out": 0}}
        s.get_one(Dataset, dataset.id).report = {"labelled_files": files}
    evaluation_id = ask(add_version(), dataset)
    assert evaluate_next("w")
    check = seen(evaluation_id).result["site_check"]
    assert check["verdict"] == "may be used"
    assert "1,000 of 1,090 files of COVID and 0 of 90 files of non-COVID were left out" in check["reasons"][-1]


@pytest.mark.parametrize(
    ("report", "lines"),
    [
        ({"labels_from": "reviews"}, ["180 labels are of readers who may have seen a model's answers"]),
        ({"labels_from": "reviews", "blind_labels": 180}, []),
        (
            {"labels_from": "reviews", "blind_labels": 170, "shared_labels": 50, "contested_labels": 20},
            ["10 labels are of readers who may have", "readers disagree on 20 of the 50 slices that several"],
        ),
        ({"contested_labels": 20}, ["readers disagree on 20 slices"]),
        ({"labels_from": "class folders"}, []),
    ],
    ids=["none-blind", "all-blind", "some-blind", "older-report", "files"],
)
def test_check_mentions_labels_that_are_not_blind_or_on_which_readers_disagree(
    report: dict[str, Any], lines: list[str], add_version: AddVersion, settings: Settings
) -> None:
    dataset = add_dataset("site", 180, 60)
    with session_scope() as s:
        s.get_one(Dataset, dataset.id).report = report
    evaluation_id = ask(add_version(), dataset)
    assert evaluate_next("w")
    reasons = seen(evaluation_id).result["site_check"]["reasons"][3:]
    assert [line[: len(start)] for line, start in zip(reasons, lines, strict=True)] == lines


def test_slices_that_are_each_a_patient_by_their_headers_are_not_evidence(
    add_version: AddVersion, settings: Settings
) -> None:
    dataset = add_dataset("site", 180, 60)
    with session_scope() as s:
        found = s.get_one(Dataset, dataset.id)
        found.report = {"identity": {"slices": 180, "groups": 180, "problem": "each_slice_a_patient"}}
    version = add_version()
    evaluation_id = ask(version, dataset)
    assert evaluate_next("w")
    check = seen(evaluation_id).result["site_check"]
    assert check["verdict"] == "not enough evidence"
    assert "100% of these slices have no known patient (DICOM headers name another one" in check["reasons"][0]
    with read_scope() as s:
        [note] = optimism_notes(s, [version], dataset.id)
    assert note.startswith("180 of 180 slices of site/1 have no known patient (DICOM headers")


def test_groups_with_the_names_of_training_groups_are_not_evidence(add_version: AddVersion, settings: Settings) -> None:
    known, others = add_dataset("known", 24, 12), add_dataset("others", 180, 60)
    split = add_split(known)
    with session_scope() as s:
        for slice_ in s.scalars(select(LabelledSlice).where(LabelledSlice.dataset_id == others.id)):
            if slice_.group == "others-7":
                slice_.group = "known-1"
    facts = {"split": {"id": split.id, "dataset": "known/1"}, "dataset": "known/1"}
    evaluation_id = ask(add_version(facts=facts), others)
    assert evaluate_next("w")
    check = seen(evaluation_id).result["site_check"]
    assert check["verdict"] == "not enough evidence"
    assert check["reasons"][0].startswith("2% of these slices are in groups with the names of groups that the model")


class FarEngine(FakeEngine):
    """Gives every fourth slice a large distance."""

    def predict(self, slices: np.ndarray) -> Scores:
        return replace(super().predict(slices), distance=(np.arange(len(slices)) % 4 == 0).astype(np.float32))


def test_share_of_slices_out_of_distribution_is_stated(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_engine", lambda *_, **__: Proven(FarEngine(), []))
    known, unknown = ask(add_version("a", ood={"threshold": 0.5}), dataset), ask(add_version("b"), dataset)
    own = ask(add_version("c", ood={"threshold": 0.5, "fake": 1.5, "keras": 0.1}), dataset)
    while evaluate_next("w"):
        pass
    assert seen(known).result["ood_share"] == pytest.approx(0.25, abs=0.02)
    assert "out of distribution" in seen(known).result["site_check"]["reasons"][-1]
    assert seen(known).result["site_check"]["reasons"][-2].startswith("4 of 12 groups (patients) get no verdict")
    assert seen(unknown).result["ood_share"] is None
    groups = seen(known).result["by_group"]
    assert (groups["n"], groups["no_verdict"]) == (8, 4), "groups with 2 of 5 slices out of distribution"
    assert seen(own).result["ood_share"] == 0, "this engine has a threshold of its own"


def failure(evaluation_id: int) -> str:
    assert evaluate_next("w")
    assert seen(evaluation_id).state == "failed"
    return seen(evaluation_id).error or ""


def test_lost_dataset_files_fail_in_one_line(add_version: AddVersion, dataset: Dataset) -> None:
    storage().delete(dataset.arrays[1])
    assert failure(ask(add_version(), dataset)).startswith(
        f"a file of the dataset site/1 or of fake/1 is gone or damaged: {dataset.arrays[1]}"
    )


def test_lost_model_files_fail_in_one_line(add_version: AddVersion, dataset: Dataset) -> None:
    version = add_version()
    storage().delete(version.files["package.json"])
    assert "is gone or damaged" in failure(ask(version, dataset))


def test_evaluation_waits_if_a_block_cannot_be_read_but_not_for_ever(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise FileUnreadable("the file 0 cannot be read")

    evaluation_id = ask(add_version("v1"), dataset)
    monkeypatch.setattr("db.storage.store.check_hash", unreadable)
    for _ in range(evaluations.MAX_CLAIMS):
        assert seen(evaluation_id).state == "queued"
        assert evaluate_next("w")
        let_time_pass()
    assert (seen(evaluation_id).state, "gone or damaged" in (seen(evaluation_id).error or "")) == ("failed", True)


def test_scores_of_another_version_that_cannot_be_read_once_are_kept(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(add_version("v1"), dataset)
    assert evaluate_next("w")
    second = ask(add_version("v2"), dataset)
    with read_scope() as s:
        scores = s.get_one(Evaluation, first).scores_sha256
    checked, errors = store.check_hash, [FileUnreadable("the file 0 cannot be read")]

    def check_hash(path: Path, sha256: str) -> None:
        if sha256 == scores and errors:
            raise errors.pop()
        checked(path, sha256)

    monkeypatch.setattr(store, "check_hash", check_hash)
    assert evaluate_next("w")
    assert (errors, seen(second).state) == ([], "queued")
    let_time_pass()
    assert evaluate_next("w")
    assert list(seen(second).result["against"]) == [seen(first).model_version]
    assert list(seen(first).result["against"]) == [seen(second).model_version]


def test_scores_of_another_version_that_cannot_be_read_in_any_try_are_not_compared(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(add_version("v1"), dataset)
    assert evaluate_next("w")
    second = ask(add_version("v2"), dataset)
    with session_scope() as s:
        scores = s.get_one(Evaluation, first).scores_sha256
        s.execute(update(Evaluation).where(Evaluation.id == second).values(attempts=evaluations.MAX_CLAIMS - 1))
    checked = store.check_hash

    def check_hash(path: Path, sha256: str) -> None:
        if sha256 == scores:
            raise FileUnreadable("the file 0 cannot be read")
        checked(path, sha256)

    monkeypatch.setattr(store, "check_hash", check_hash)
    assert evaluate_next("w")
    assert (seen(second).state, seen(second).result["against"][seen(first).model_version]) == ("finished", {})


def let_time_pass() -> None:
    """As if the minute were over for which evaluations were put off."""
    with session_scope() as s:
        s.execute(update(Evaluation).where(Evaluation.state == Work.READY).values(lease_until=None))


def test_part_without_slices_fails_in_one_line(add_version: AddVersion, dataset: Dataset) -> None:
    evaluation_id = ask(add_version(), dataset, add_split(dataset), "validation")
    assert failure(evaluation_id) == "there are no slices in validation of site/1"


def test_scores_that_are_not_numbers_fail_in_one_line(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.engines.fake.expected_logit", lambda pixels: float("nan"))
    assert failure(ask(add_version(), dataset)) == "fake gave a score that is not a number"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("at /opt/engine.cpp"), "ValueError; the evaluation worker's log says more"),
        (RuntimeError("at /opt/engine.cpp"), "RuntimeError; the evaluation worker's log says more"),
    ],
)
def test_unexpected_errors_are_reported_without_paths(
    error: Exception, message: str, add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(load, "load_engine", fails)
    assert failure(ask(add_version(), dataset)) == message


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        OperationalError("UPDATE evaluation", {}, Exception("database is locked")),
        FileNotFoundError(2, "No such file or directory", "/var/lib/ctbatch/models/3f"),
        OSError(5, "Input/output error"),
    ],
)
def test_evaluation_waits_for_what_is_away(
    error: Exception, add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise error

    evaluation_id = ask(add_version(), dataset)
    monkeypatch.setattr(carried, "engine_of", away)
    assert evaluate_next("w")
    monkeypatch.undo()
    assert "/var" not in (seen(evaluation_id).error or ""), "no path"
    with read_scope() as s:
        assert s.get_one(Evaluation, evaluation_id).attempts == 0
    assert not evaluate_next("w"), "not before the sweeper asks again"
    with session_scope() as s:
        s.execute(update(Evaluation).values(lease_until=from_now(-1)))
    assert evaluate_next("w")
    assert seen(evaluation_id).state == "finished"


def test_evaluation_that_kills_its_workers_is_given_up(add_version: AddVersion, dataset: Dataset) -> None:
    evaluation_id = ask(add_version(), dataset)
    with session_scope() as s:
        s.execute(update(Evaluation).values(attempts=evaluations.MAX_CLAIMS))
    assert failure(evaluation_id).startswith("3 workers died during this evaluation;")


def test_evaluation_whose_claim_meets_a_locked_database_is_claimed_again(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation_id = ask(add_version(), dataset)
    monkeypatch.setattr(evaluations, "claim", locked_at_first(evaluations.claim))
    assert evaluate_next("w")
    assert seen(evaluation_id).state == "finished"


@pytest.mark.parametrize("call", ["done_beside", "finish"])
def test_result_is_kept_until_the_database_is_back(
    call: str, add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.claimed.WAIT_SECONDS", 0.0)
    evaluation_id = ask(add_version(), dataset)
    monkeypatch.setattr(evaluations, call, locked_at_first(getattr(evaluations, call)))
    assert evaluate_next("w")
    assert seen(evaluation_id).state == "finished"


def test_no_evaluation_is_claimed_while_the_disk_is_at_its_reserve(
    add_version: AddVersion, dataset: Dataset, settings: Settings
) -> None:
    evaluation_id = ask(add_version(), dataset)
    database.use(settings.model_copy(update={"reserve_bytes": 1 << 60}))
    assert not evaluate_next("w")
    assert evaluate_next("w", evaluation_id), "a person waits for this one"


def test_interrupted_evaluation_is_requeued(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(fraction: float) -> None:
        raise KeyboardInterrupt

    evaluation_id = ask(add_version(), dataset)
    with pytest.raises(KeyboardInterrupt):
        evaluate_next("w", progress=interrupt)
    with read_scope() as s:
        assert s.get_one(Evaluation, evaluation_id).state == Work.READY
    assert evaluate_next("w")


def test_evaluation_whose_worker_is_stopped_is_no_attempt(add_version: AddVersion, dataset: Dataset) -> None:
    evaluation_id = ask(add_version(), dataset)
    with asked_to_stop():
        assert evaluate_next("w", evaluation_id)
    with read_scope() as s:
        evaluation = s.get_one(Evaluation, evaluation_id)
        assert (evaluation.state, evaluation.attempts) == (Work.READY, 0)


def test_worker_that_lost_its_claim_records_nothing(
    add_version: AddVersion, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation_id = ask(add_version(), dataset)

    def steal(fraction: float) -> None:
        with session_scope() as s:
            s.execute(update(Evaluation).values(fence=Evaluation.fence + 1))

    assert evaluate_next("w", progress=steal)
    assert (seen(evaluation_id).state, seen(evaluation_id).result) == ("running", {})
