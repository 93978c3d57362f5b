"""`ctbatch findings tune`: chooses a rule on patients that the version never saw, keeps it, or refuses."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from cli.commands.findings import findings
from cli.commands.models.check import check
from db.database import read_scope, session_scope
from db.findings.rules import rule_of
from db.ledger import jobs
from db.models import Dataset, ModelVersion, User
from db.models.documents import FindingRule
from db.registry.export import export_package
from db.registry.transfer import import_package, register_received
from db.settings import Settings
from tests.builders import versions as builders
from tests.builders.datasets import add_dataset, add_split, delete_dataset
from training.evaluation.tune_version import tune_version
from worker.engines import load
from worker.engines.fake import FakeEngine
from worker.engines.interface import Scores
from worker.engines.load import Proven

Run = Callable[..., Result]
FILES = {"model.xml": b"<net/>", "model.bin": bytes(100)}


@pytest.fixture
def run(settings: Settings) -> Run:
    """Runs the command in this process, on the test's own home."""
    return lambda *words: CliRunner().invoke(findings, [str(word) for word in words], prog_name="findings")


@pytest.fixture
def patients(settings: Settings) -> Dataset:
    """Forty groups of three slices; the engine is wrong on one slice of each."""
    return add_dataset("site", 120, 40, wrong=1)


@pytest.fixture
def version(settings: Settings) -> ModelVersion:
    return builders.add_version(settings.home, "lung", FILES)


def rule_now(version: ModelVersion) -> FindingRule:
    with read_scope() as s:
        return rule_of(s.get_one(ModelVersion, version.id))


def read_json(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_tuned_rule_is_kept_until_it_is_reset(run: Run, version: ModelVersion, patients: Dataset) -> None:
    tuned = read_json(run("tune", "lung/1", "--dataset", "site", "--json"))
    assert tuned["tuned"]["groups"] == {"COVID": 20, "non-COVID": 20}
    assert tuned["tuned"]["engine"] == "fake"
    assert set(tuned["tuned"]["held_out"]) == {"accuracy", "recall", "specificity", "precision", "negative_precision"}
    assert rule_now(version).as_dict() == tuned == read_json(run("rule", "lung/1", "--json"))
    again = read_json(run("tune", "lung/1", "--dataset", "site", "--json"))
    assert [again["rule"], again["k"], again["threshold"]] == [tuned["rule"], tuned["k"], tuned["threshold"]]
    assert "on groups it was not chosen on" in run("rule", "lung/1").output
    assert "tuned on site/1: 40 groups (20 COVID, 20 non-COVID)" in run("rule", "lung/1").output
    assert read_json(run("reset", "lung/1", "--json"))["tuned"] is None
    assert rule_now(version).tuned is None


def test_check_measures_groups_by_the_rule_of_now_and_says_where_it_was_tuned(
    run: Run, version: ModelVersion, patients: Dataset
) -> None:
    def checked(*words: str) -> Result:
        return CliRunner().invoke(check, ["lung/1", "--on", "site", *words])

    with session_scope() as s:
        s.get_one(Dataset, patients.id).sha256 = "5" * 64
    before = read_json(checked("--json"))
    assert before["result"]["by_group"]["rule"]["rule"] == "top-k-mean"
    assert before["result"]["by_group"]["tuned_slices"] == 0
    tuned = read_json(run("tune", "lung/1", "--dataset", "site", "--rule", "max", "--json"))
    after = checked()
    assert f"40 groups (patients) by max: COVID if the score is at least {tuned['threshold']:.3f}" in after.output
    assert "was tuned on 120 of the 120 slices" in after.output
    again = read_json(checked("--json"))
    assert (again["id"], again["result"]["by_group"]["tuned_slices"]) == (before["id"], 120)
    assert read_json(checked("--json"))["finished_at"] == again["finished_at"], "the same rule gives the same check"
    run("reset", "lung/1")
    assert "was tuned on" not in checked().output


def test_check_on_another_dataset_counts_the_slices_that_tuned_the_rule(
    run: Run, version: ModelVersion, patients: Dataset
) -> None:
    add_dataset("ward", 120, 40, wrong=1)  # the same slices
    with session_scope() as s:
        s.get_one(Dataset, patients.id).sha256 = "5" * 64
    read_json(run("tune", "lung/1", "--dataset", "site", "--json"))
    assert "was tuned on 120 of the 120 slices" in CliRunner().invoke(check, ["lung/1", "--on", "ward"]).output


def test_only_the_named_rules_are_tried(run: Run, version: ModelVersion, patients: Dataset) -> None:
    assert read_json(run("tune", "lung/1", "--dataset", "site", "--rule", "noisy-or", "--json"))["rule"] == "noisy-or"
    refused = run("tune", "lung/1", "--dataset", "site", "--rule", "median")
    assert refused.exit_code == 2
    assert "top-k-mean, max, mean, noisy-or" in refused.output


def test_slices_that_made_the_version_are_refused(run: Run, patients: Dataset, settings: Settings) -> None:
    split = add_split(patients, 40)
    facts = {"split": {"id": split.id, "dataset": "site/1"}, "dataset": "site/1"}
    taught = builders.add_version(settings.home, "taught", FILES, facts=facts)
    refused = run("tune", "taught/1", "--dataset", "site")
    assert refused.exit_code == 1
    assert "120 of 120 slices" in refused.output
    assert rule_now(taught).tuned is None


def test_tuning_says_that_training_slices_of_the_version_are_deleted(
    run: Run, patients: Dataset, settings: Settings
) -> None:
    known = add_dataset("known", 60, 20)
    facts = {"split": {"id": add_split(known, 20).id, "dataset": "known/1"}, "dataset": "known/1"}
    builders.add_version(settings.home, "taught", FILES, facts=facts)
    delete_dataset(known)
    notes = read_json(run("tune", "taught/1", "--dataset", "site", "--json"))["tuned"]["notes"]
    assert notes == [
        "taught/1 was trained on known/1, which is deleted; its slices may include these",
        "60 slices that the model learned from are gone, so slices that look like them could not be found",
    ]


def test_rule_that_was_tuned_on_a_deleted_dataset_is_said_in_a_check(
    run: Run, version: ModelVersion, patients: Dataset
) -> None:
    add_dataset("ward", 120, 40, wrong=1)  # the same slices
    with session_scope() as s:
        s.get_one(Dataset, patients.id).sha256 = "5" * 64
    read_json(run("tune", "lung/1", "--dataset", "site", "--json"))
    delete_dataset(patients)
    output = CliRunner().invoke(check, ["lung/1", "--on", "ward"]).output
    assert "the rule of findings was tuned on site/1, which is deleted; its slices may include these" in output


def test_rule_is_not_kept_if_its_dataset_is_deleted_meanwhile(
    run: Run, version: ModelVersion, patients: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete_and_tune(*arguments: Any) -> FindingRule:
        rule = tune_version(*arguments)
        delete_dataset(patients)
        return rule

    monkeypatch.setattr("training.evaluation.tune_version.tune_version", delete_and_tune)
    refused = run("tune", "lung/1", "--dataset", "site")
    assert (refused.exit_code, "site/1 is deleted" in refused.output) == (2, True)
    assert rule_now(version).tuned is None


def test_too_few_groups_and_unknown_names_are_refused(run: Run, version: ModelVersion, settings: Settings) -> None:
    add_dataset("small", 60, 12)
    refused = run("tune", "lung/1", "--dataset", "small")
    assert refused.exit_code == 1
    assert "too few groups" in refused.output
    assert run("tune", "lung/1", "--dataset", "nowhere").exit_code == 3
    assert run("tune", "lung/9", "--dataset", "small").exit_code == 3


def test_the_rule_travels_in_the_package(
    run: Run, version: ModelVersion, patients: Dataset, settings: Settings
) -> None:
    read_json(run("tune", "lung/1", "--dataset", "site", "--json"))
    path = settings.home / "lung.tar"
    with read_scope() as s:
        path.write_bytes(b"".join(export_package(s.get_one(ModelVersion, version.id))))
    received = import_package(path, "lung-224-v1", lambda _: None)
    with session_scope() as s:
        assert register_received(s, received)[1] is False  # the same model with the same rule
        s.get_one(ModelVersion, version.id).finding_rule = None
    with session_scope() as s:
        other, is_new = register_received(s, received)
    assert is_new
    assert rule_now(other).tuned is not None


def test_jobs_of_the_version_use_its_rule(run: Run, patients: Dataset, settings: Settings, ann: User) -> None:
    champion = builders.add_champion(settings.home)
    rule = FindingRule(rule="max", version=2, threshold=0.2)
    with session_scope() as s:
        s.get_one(ModelVersion, champion.id).finding_rule = rule
    with session_scope() as s:
        file = jobs.ReceivedFile("a.zip", "0" * 64, 10, "zip", 1)
        job, _ = jobs.create_job(s, owner=ann, files=[file])
        assert rule_of(job.model_version) == rule


def test_rule_states_the_thresholds_of_engines(run: Run, version: ModelVersion) -> None:
    with session_scope() as s:
        own = {
            name: {"temperature": 1.0, "threshold": at}
            for name, at in (("openvino-int8", 0.42), ("openvino-bf16", 0.5))
        }
        s.get_one(ModelVersion, version.id).calibration = own
    shown = run("rule", "lung/1").stderr
    assert "COVID if the score is at least 0.500" in shown
    assert "for jobs that openvino-int8 predicts: at least 0.420" in shown
    assert "openvino-bf16" not in shown, "its threshold is that of the rule"


def test_groups_without_a_verdict_are_not_counted(
    run: Run, version: ModelVersion, patients: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distances(FakeEngine):
        """Gives a large distance to slices that it does not call COVID."""

        def predict(self, slices: NDArray[np.uint8]) -> Scores:
            scores = super().predict(slices)
            return replace(scores, distance=(scores.logit < 0).astype(np.float32))

    monkeypatch.setattr(load, "load_engine", lambda *_, **__: Proven(Distances(), []))
    with session_scope() as s:
        s.get_one(ModelVersion, version.id).ood = {"threshold": 0.5}
    refused = run("tune", "lung/1", "--dataset", "site")
    assert (refused.exit_code, "no group that counts is non-COVID" in refused.output) == (1, True), refused.output
    assert "groups without a verdict" in refused.output
