"""`ctbatch models`: shown, checked, compared, promoted through the gate, rolled back, exported and imported."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from sqlalchemy import update

from cli.commands.models.models import models
from db import database, migrate
from db.database import read_scope, session_scope
from db.evaluation import evaluations
from db.installation import claim_storage
from db.metrics import Difference
from db.models import Dataset, Evaluation, ModelVersion, Work
from db.registry import champions
from db.settings import Settings
from db.storage import storage
from tests.builders import versions as builders
from tests.builders.datasets import add_dataset, add_split, delete_dataset
from tests.builders.networks import keras_file_with_link
from tests.conftest import make_settings
from tests.web.actors import load_engines
from worker.engines.fake import FakeEngine
from worker.engines.interface import Scores

AddVersion = Callable[..., ModelVersion]
Run = Callable[..., Result]


@pytest.fixture
def run(settings: Settings) -> Run:
    """Runs the command in this process, on the test's own home."""
    return lambda *words: CliRunner().invoke(models, [str(word) for word in words], prog_name="models")


@pytest.fixture
def dataset(settings: Settings) -> Dataset:
    """Sixty slices of twelve groups; the engine is right on all."""
    return add_dataset()


@pytest.fixture
def add_version(settings: Settings, dataset: Dataset) -> AddVersion:
    """Registers a version that was trained on the dataset's train part, with a small network's files."""
    split = add_split(dataset)

    def act(name: str, **values: object) -> ModelVersion:
        files = {"model.xml": f"<net name='{name}'/>".encode(), "model.bin": bytes(100)}
        facts = {"split": {"id": split.id, "dataset": "site/1"}, "dataset": "site/1", "floor": 0.7}
        return builders.add_version(settings.home, name, files, **({"facts": facts} | values))

    return act


def champion_now() -> str | None:
    with read_scope() as s:
        champion = champions.champion(s)
        return champion.label if champion else None


def rows(text: str) -> dict[str, list[str]]:
    """A printed table by its first column."""
    return {line.split("\t")[0]: line.split("\t")[1:] for line in text.splitlines()}


def test_a_version_shows_its_lineage_figures_files_and_jobs(run: Run, add_version: AddVersion) -> None:
    figures = {"auc": 0.97, "n": 30, "intervals": {"auc": [0.95, 0.99]}, "confusion_matrix": [[1, 2], [3, 4]]}
    stages = [{"name": "head", "epochs": 3}, {"name": "base", "epochs": 5}]
    facts = {"lineage": ["first/1", "second/3"], "dataset": "site/1", "config": {"stages": stages}}
    version = add_version("new", metrics=figures, facts=facts)
    shown = rows(run("show", "new/1").stdout)
    assert shown["lineage"] == ["first/1 → second/3"]
    assert shown["dataset"] == ["site/1"]
    assert shown["metrics.auc"] == ["0.97 (0.950 to 0.990)"]
    assert shown["facts.config.stages.base.epochs"] == ["5"], "the name that `train --set` takes"
    assert shown["used_by"] == ["0"]
    assert shown["files.model.bin"] == [version.files["model.bin"]]
    view = json.loads(run("show", version.id, "--json").stdout)
    assert (view["used_by"], view["lineage"], view["metrics"]) == (0, ["first/1", "second/3"], figures)
    assert run("show", "nosuch/1").exit_code == 3


def test_metrics_of_probabilities_are_not_shown_for_groups(run: Run, add_version: AddVersion) -> None:
    of_groups = {"auc": 0.97, "brier": 0.1, "ece": 0.05, "intervals": {"brier": [0.05, 0.15]}}
    add_version("new", metrics={"brier": 0.2, "by_group": of_groups})
    shown = rows(run("show", "new/1").stdout)
    assert [key for key in shown if key.startswith("metrics.")] == ["metrics.brier", "metrics.by_group.auc"]


def test_promote_evaluates_both_versions_and_prints_the_comparison(run: Run, add_version: AddVersion) -> None:
    add_version("old"), add_version("new")
    first = run("promote", "old/1", "--reason", "the first")
    assert first.exit_code == 0, first.stderr
    assert "the gate says of old/1: nothing to compare on" in first.stderr
    result = run("promote", "new/1")
    assert result.exit_code == 1
    assert "not enough evidence" in result.stderr.splitlines()[-1]
    result = run("promote", "new/1", "--reason", "for a drill")
    assert result.exit_code == 0, result.stderr
    assert "on the test part of site/1: 30 slices, 6 groups; both measured by fake" in result.stderr
    assert rows(result.stdout)["metric"] == ["new/1", "old/1", "difference", "95 %", ""]
    assert rows(result.stdout)["sensitivity"] == ["1.000", "1.000", "+0.000", "−1.000 to +1.000", Difference.NONE]
    assert champion_now() == "new/1"
    view = json.loads(run("show", "new/1", "--json").stdout)
    [promotion] = view["promotions"]
    assert (promotion["verdict"], promotion["overridden"]) == ("not enough evidence", False)
    assert promotion["by"].endswith("at the command line")


def test_a_worse_version_is_refused_with_exit_code_1_and_forced_with_a_reason(
    run: Run, add_version: AddVersion
) -> None:
    add_version("old"), add_version("blind", threshold=0.99)
    run("promote", "old/1", "--reason", "the first")
    refused = run("promote", "blind/1", "--reason", "please")
    assert refused.exit_code == 1
    assert rows(refused.stdout)["sensitivity"][-1] == Difference.WORSE
    assert refused.stderr.splitlines()[-1].startswith("Error: blind/1: refused (its sensitivity of ")
    assert champion_now() == "old/1"
    assert run("promote", "blind/1", "--force").exit_code == 1
    as_json = run("promote", "blind/1", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["gate"]["verdict"] == "refused"
    forced = run("promote", "blind/1", "--force", "--reason", "for a drill", "--json")
    assert forced.exit_code == 0
    kept = json.loads(forced.stdout)
    assert (kept["promoted"], kept["version"], kept["champion"]) == (True, "blind/1", True)
    [promotion] = json.loads(run("show", "blind/1", "--json").stdout)["promotions"]
    assert (promotion["reason"], promotion["overridden"]) == ("for a drill", True)


def test_a_version_without_a_test_part_needs_a_reason(run: Run, add_version: AddVersion) -> None:
    add_version("imported", facts={})
    refused = run("promote", "imported/1")
    assert refused.exit_code == 1
    assert "the test part of its split is not in this database" in refused.stderr
    assert refused.stderr.endswith("a promotion needs a reason\n")
    assert run("promote", "imported/1", "--reason", "checked at this site").exit_code == 0


def test_failed_evaluation_is_reported_and_nothing_is_promoted(
    run: Run, add_version: AddVersion, dataset: Dataset
) -> None:
    add_version("new")
    with session_scope() as s:
        claim_storage(s)
    storage().delete(dataset.arrays[1])
    result = run("promote", "new/1", "--reason", "x")
    assert result.exit_code == 1
    assert "evaluation of new/1 on site/1 (test) failed: a file of the dataset site/1" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: new/1: not compared yet (the evaluation of new/1 failed")
    assert champion_now() is None


def test_rollback_is_one_step(run: Run, add_version: AddVersion) -> None:
    add_version("old"), add_version("new")
    run("promote", "old/1", "--reason", "the first")
    run("promote", "new/1", "--reason", "for a drill")
    refused = run("rollback", "--reason", " ")
    assert (refused.exit_code, refused.stderr) == (1, "Error: a rollback needs a reason: --reason\n")
    assert run("rollback", "--reason", "worse on CT 2").stderr == "old/1 is the champion again\n"
    assert champion_now() == "old/1"
    newest, _ = json.loads(run("show", "old/1", "--json").stdout)["promotions"]
    assert (newest["reason"], newest["verdict"], newest["champion"]) == ("worse on CT 2", "rollback", "new/1")
    assert newest["by"].endswith("the command line")
    assert "promotions.1.figures" not in run("show", "old/1").stdout


def test_rollback_says_if_every_worker_refuses_the_version(run: Run, add_version: AddVersion) -> None:
    old = add_version("old")
    add_version("new")
    run("promote", "old/1", "--reason", "the first")
    run("promote", "new/1", "--reason", "for a drill")
    load_engines(old.id, "ct-1", int8=False)
    view = json.loads(run("rollback", "--reason", "worse", "--json").stdout)
    assert "No worker has an engine that may predict with old/1" in view["warning"]
    run("promote", "new/1", "--reason", "again")
    assert view["warning"] in run("rollback", "--reason", "worse").stderr


def test_a_check_says_whether_a_model_may_be_used_at_a_site(run: Run, add_version: AddVersion) -> None:
    add_version("new")
    add_dataset("clinic", 180, 60, seed=3)
    good = run("check", "new/1", "--on", "clinic")
    assert good.exit_code == 0, good.stderr
    assert "new/1 on clinic/1, 180 slices of 60 groups: may be used" in good.stderr
    assert "  measured by fake\n" in good.stderr
    assert rows(good.stdout)["AUC"] == ["1.000", "0.905 to 1.000", "1.000", "0.905 to 1.000"]
    assert rows(good.stdout)["Brier score"][2:] == ["", ""], "the score of a group is not a probability"
    assert "60 groups (patients) by top-k-mean (k 10): COVID if the score is at least 0.500" in good.stderr
    assert "Research use only" in good.stderr
    view = json.loads(run("check", "new/1", "--on", "clinic/1", "--json").stdout)
    assert view["result"]["site_check"]["verdict"] == "may be used"


def test_check_on_training_slices_is_not_evidence(run: Run, add_version: AddVersion) -> None:
    add_version("new")
    checked = run("check", "new/1", "--on", "site")
    assert "not enough evidence" in checked.stderr
    assert "trained or calibrated on 50% of these slices" in checked.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("check", "new/1", "--on", "nosuch"), 3, "there is no dataset nosuch"),
        (("check", "nosuch/1", "--on", "site"), 3, "there is no model version nosuch/1"),
        (("check", "new/1"), 2, "Missing option '--on'"),
        (("check", "new/1", "--on", "young"), 2, "the dataset young/1 cannot be used: it is still being built"),
        (("compare", "new/1", "new/1", "--on", "site"), 2, "are the same model version"),
        (
            ("compare", "bare/1", "new/1"),
            2,
            "bare/1 has no test part in this database: name a dataset to compare them on",
        ),
        (("compare", "new/1", "nosuch/1"), 3, "there is no model version nosuch/1"),
        (("show", "99999999999999999999"), 3, "there is no model version 99999999999999999999"),
        (("show", "new/99999999999999999999"), 3, "there is no model version new/99999999999999999999"),
        (("show", "²"), 3, "there is no model version ²"),
        (("promote", "nosuch/1"), 3, "there is no model version nosuch/1"),
        (("export", "nosuch/1", "x.tar"), 3, "there is no model version nosuch/1"),
        (("import", "nosuch.tar"), 2, "does not exist"),
        (("rollback",), 3, "there is no champion yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refusals_are_reported_in_one_line(
    run: Run, add_version: AddVersion, words: tuple[str, ...], code: int, message: str
) -> None:
    add_version("new"), add_version("bare", facts={})
    with session_scope() as s:
        s.add(Dataset(name="young", number=1, sources=[], state=Work.RUNNING))
    result = run(*words)
    assert result.exit_code == code
    assert message in result.stderr


def test_two_versions_are_compared_on_the_firsts_test_part_or_on_a_dataset(run: Run, add_version: AddVersion) -> None:
    add_version("a"), add_version("b", threshold=0.99)
    part = run("compare", "a/1", "b/1")
    assert part.exit_code == 0, part.stderr
    assert "site/1 (test): 30 slices, 6 groups" in part.stderr
    assert rows(part.stdout)["sensitivity"][-1] == Difference.BETTER
    whole = json.loads(run("compare", "b/1", "a/1", "--on", "site", "--json").stdout)
    assert (whole["a"], whole["b"], whole["dataset"], whole["part"], whole["slices"]) == (
        "b/1", "a/1", "site/1", None, 60,
    )  # fmt: skip
    assert whole["figures"]["recall"]["high"] < 0
    warnings = [f"{label}, or a version it comes from, was trained on 30 of these slices" for label in ("b/1", "a/1")]
    assert whole["notes"] == warnings
    assert all(f"  {line}\n" in run("compare", "b/1", "a/1", "--on", "site").stderr for line in warnings)
    assert "was trained on" not in part.stderr
    with read_scope() as s:
        dataset = s.query(Dataset).filter_by(name="site").one()
    delete_dataset(dataset)
    for words in (("a/1", "b/1"), ("b/1", "a/1", "--on", "site/1")):
        again = run("compare", *words)
        assert (again.exit_code, "sensitivity" in rows(again.stdout)) == (0, True), again.stderr
        assert "\nsite/1 (deleted)" in f"\n{again.stderr}"


def test_evaluation_that_a_worker_has_claimed_is_waited_for(
    run: Run, add_version: AddVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.evaluation.evaluate_version import evaluate_next

    version = add_version("new")
    add_dataset("clinic", 180, 60, seed=3)
    with session_scope() as s:
        clinic = s.query(Dataset).filter_by(name="clinic").one()
        evaluation = evaluations.request(s, version=version, dataset=clinic)
        evaluations.claim(s, "another worker")

    looked = threading.Event()

    def worker_ends() -> None:
        looked.wait()
        with session_scope() as s:
            s.execute(update(Evaluation).values(state=Work.READY, lease_until=None))
        evaluate_next("one more", evaluation.id)

    def pause(_seconds: float) -> None:
        looked.set()
        time.sleep(0.05)

    monkeypatch.setattr("cli.polling.sleep", pause)
    worker = threading.Thread(target=worker_ends)
    worker.start()
    result = run("check", "new/1", "--on", "clinic")
    worker.join()
    assert "a worker is running it" in result.stderr
    assert "may be used" in result.stderr


def test_exported_version_is_imported_elsewhere_byte_for_byte(
    run: Run, add_version: AddVersion, settings: Settings, tmp_path: Path
) -> None:
    version = add_version("new")
    file = tmp_path / "new.tar"
    assert run("export", "new/1", file).exit_code == 0
    again = run("export", "new/1", file)
    assert (again.exit_code, f"{file} exists already" in again.stderr) == (2, True)
    assert run("import", file).stderr == "new/1 is here already\n"

    database.use(make_settings(tmp_path / "elsewhere"))
    migrate.upgrade()
    there = json.loads(run("import", file, "--json").stdout)
    assert (there["version"], there["new"], there["champion"]) == ("new/1", True, False)
    assert json.loads(run("show", "new/1", "--json").stdout)["files"] == version.files
    assert json.loads(run("export", "new/1", tmp_path / "copy.tar", "--json").stdout)["bytes"] == file.stat().st_size
    assert (tmp_path / "copy.tar").read_bytes() == file.read_bytes()
    assert run("import", file).stderr == "new/1 is here already\n"


def test_pictures_of_slices_are_exported_only_if_asked_for(run: Run, settings: Settings, tmp_path: Path) -> None:
    files = {"model.xml": b"<net/>", "model.bin": bytes(100), "report.html": b"<img>", "mistakes.png": b"PNG"}
    builders.add_version(settings.home, "new", files)
    for name, options in (("plain", []), ("whole", ["--with-slices"])):
        assert run("export", "new/1", tmp_path / name, *options).exit_code == 0
    exported = [(tmp_path / name).read_bytes() for name in ("plain", "whole")]
    assert [b"report.html" in file for file in exported] == [False, True]
    assert [b"mistakes.png" in file for file in exported] == [False, True]


def test_a_damaged_file_is_refused_in_one_line(run: Run, add_version: AddVersion, tmp_path: Path) -> None:
    add_version("new")
    file = tmp_path / "new.tar"
    run("export", "new/1", file)
    file.write_bytes(file.read_bytes().replace(b"<net name='new'/>", b"<net name='old'/>"))
    result = run("import", file)
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: new.tar: model.xml holds other bytes than the package was made with\n",
    )
    assert len(json.loads(run("ls", "--json").stdout)) == 1


def test_network_whose_weights_name_another_file_is_not_imported(run: Run, settings: Settings, tmp_path: Path) -> None:
    builders.add_version(settings.home, "new", {"model.keras": keras_file_with_link()})
    assert run("export", "new/1", tmp_path / "new.tar").exit_code == 0
    result = run("import", tmp_path / "new.tar")
    assert result.exit_code == 2
    assert "new.tar: model.keras holds a soft or external link" in result.stderr


def test_a_version_whose_files_are_damaged_is_not_exported(run: Run, add_version: AddVersion, tmp_path: Path) -> None:
    version = add_version("new")
    storage().local_path(version.files["model.bin"]).write_bytes(b"other")
    result = run("export", "new/1", tmp_path / "new.tar")
    assert result.exit_code == 4
    assert "a file of new/1 is gone or damaged" in result.stderr
    assert not list(tmp_path.glob("*.tar*")) + list(tmp_path.glob(".*.tar*"))


@pytest.mark.parametrize(
    ("words", "reason"), [([], "the demo model, which ships with ctbatch"), (["--reason", "to try it"], "to try it")]
)
def test_demo_model_becomes_the_first_champion_with_reason_and_user(run: Run, words: list[str], reason: str) -> None:
    first = run("promote", "demo", "--json", *words)
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["version"] == champion_now() == "demo/1"
    [promotion] = json.loads(run("show", "demo/1", "--json").stdout)["promotions"]
    assert promotion["reason"] == reason
    assert promotion["by"].endswith("at the command line")


@pytest.mark.slow
def test_demo_model_goes_through_the_gate_where_there_is_a_champion(run: Run, add_version: AddVersion) -> None:
    with session_scope() as s:
        champions.record_promotion(s, s.merge(add_version("first")), None, "for a test")
    assert run("promote", "demo").exit_code == 1
    assert champion_now() == "first/1"
    assert run("promote", "demo", "--reason", "to show it").exit_code == 0
    assert champion_now() == "demo/1"


def test_damaged_demo_model_says_which_command_makes_it_anew(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.registry.demo_model.DEMO_FILE", tmp_path / "gone.tar.gz")
    result = run("promote", "demo")
    assert result.exit_code == 4
    assert "make demo-model" in result.output


@pytest.fixture
def far_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test engine gives each slice the distance 2."""
    predict = FakeEngine.predict

    def with_distance(self: FakeEngine, slices: NDArray[np.uint8]) -> Scores:
        return replace(predict(self, slices), distance=np.full(len(slices), 2.0, np.float32))

    monkeypatch.setattr(FakeEngine, "predict", with_distance)


def test_check_states_the_share_out_of_distribution_once(run: Run, add_version: AddVersion, far_slices: None) -> None:
    add_version("far", ood={"threshold": 1.0})
    add_version("near", ood={"threshold": 3.0})
    add_dataset("clinic", 180, 60, seed=3)
    for name, share in (("far", "100%"), ("near", "0.0%")):
        printed = run("check", f"{name}/1", "--on", "clinic").stderr
        assert [line.split()[0] for line in printed.splitlines() if "of the slices" in line] == [share], printed


def test_check_says_that_no_group_has_a_verdict(run: Run, add_version: AddVersion, far_slices: None) -> None:
    add_version("far", ood={"threshold": 1.0})
    add_dataset("clinic", 180, 60, seed=3)
    printed = run("check", "far/1", "--on", "clinic").stderr
    assert "no metrics of groups (patients): 60 groups without a verdict" in printed
