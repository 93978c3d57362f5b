"""`ctbatch train` and `ctbatch runs`: launched with an estimate, refused in one line, followed and ended."""

import hashlib
import json
from collections.abc import Callable, Iterator

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update

from cli.commands.runs import runs_group
from cli.commands.train import train
from cli.local import training_runs
from db.database import read_scope, session_scope
from db.models import Dataset, Epoch, ModelVersion, Split, TrainingRun, Work
from db.settings import Settings, get_settings
from db.storage import storage
from db.training import runs
from db.training.progress import FIT_SHARE
from tests.builders.datasets import add_dataset, delete_dataset, split_of
from training.launch.weights_file import base_shapes

Run = Callable[..., Result]


@pytest.fixture
def dataset(settings: Settings) -> Dataset:
    return add_dataset("site", 48)


@pytest.fixture
def launch(dataset: Dataset, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs `ctbatch train` on this test's home; no broker answers there, so hints are lost."""
    monkeypatch.setenv("CTBATCH_HOME", str(settings.home))
    monkeypatch.setenv("CELERY_BROKER_URL", settings.broker_url)
    get_settings.cache_clear()
    yield lambda *words: CliRunner().invoke(train, [str(word) for word in words], prog_name="train")
    get_settings.cache_clear()


@pytest.fixture
def ask() -> Run:
    """Runs `ctbatch runs`."""
    return lambda *words: CliRunner().invoke(runs_group, [str(word) for word in words], prog_name="runs")


def only_run() -> TrainingRun:
    with read_scope() as s:
        (run,) = runs.list_runs(s)
        s.refresh(run, ["split"])
        s.expunge_all()
        return run


def test_a_run_is_launched_with_its_estimate(launch: Run) -> None:
    result = launch("site", "--preset", "scratch", "--set", "stages.small.epochs=2", "--seed", 3, "--name", "mine")
    assert result.exit_code == 0, result.output
    assert "site/1: " in result.stderr
    assert "min on two cores" in result.stderr
    run = only_run()
    assert (run.name, run.preset, run.seed, run.state) == ("mine", "scratch", 3, "ready")
    assert run.config["stages"][0]["epochs"] == 2
    assert run.estimate["seconds"] > 0


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_estimate_is_printed_before_the_launch(launch: Run, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise runs.RunError("the run is refused at the last moment")

    monkeypatch.setattr(runs, "create_run", refuse)
    result = launch("site", *more)
    assert result.exit_code == 2
    assert result.stderr.index("min on two cores") < result.stderr.index("refused at the last moment")


def test_dry_run_prints_the_estimate_and_launches_nothing(launch: Run) -> None:
    result = launch("site", "--preset", "quick", "--dry-run")
    assert (result.exit_code, "min on two cores" in result.stderr, result.stdout) == (0, True, "")
    plan = json.loads(launch("site", "--preset", "quick", "--dry-run", "--json").stdout)
    assert (plan["dataset"], sum(plan["slices"].values())) == ("site/1", 48)
    assert plan["estimate"]["seconds"] > 0
    assert launch("site", "--dry-run", "--set", "stages.tail.epochs=1").exit_code == 2
    with read_scope() as s:
        assert runs.list_runs(s) == []


def test_estimate_says_that_slices_of_the_version_to_start_from_are_deleted(launch: Run) -> None:
    old = add_dataset("old")
    blank = {"metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0}
    with session_scope() as s:
        facts = {"dataset": old.label, "split": {"id": split_of(s, old).id, "dataset": old.label}}
        s.add(ModelVersion(name="lungs", number=1, files={"model.keras": "0" * 64}, facts=facts, **blank))
    delete_dataset(old)
    words = ("site", "--preset", "quick", "--from", "lungs/1", "--dry-run")
    assert "lungs/1 was trained on old/1, which is deleted" in launch(*words).stderr
    assert len(json.loads(launch(*words, "--json").stdout)["notes"]) == 1


def test_train_prints_json(launch: Run) -> None:
    view = json.loads(launch("site/1", "--preset", "quick", "--json").stdout)
    assert (view["state"], view["dataset"], view["preset"]) == ("queued", "site/1", "quick")


@pytest.mark.slow
def test_a_weights_file_goes_into_storage(launch: Run, settings: Settings) -> None:
    path = settings.home / "weights.h5"
    with h5py.File(path, "w") as file:
        for number, shape in enumerate(base_shapes().elements()):
            file.create_dataset(str(number), shape, chunks=True)  # without a byte of its zeros
    assert launch("site", "--from", path).exit_code == 0
    initial = only_run().config["initial"]
    assert initial.startswith("file:")
    assert storage().exists(initial.removeprefix("file:"))


def test_weights_file_that_is_too_large_is_refused_and_not_kept(
    launch: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.launch.weights_file.MAX_WEIGHTS_BYTES", 999_999)
    path = settings.home / "weights.h5"
    path.write_bytes(bytes(1_000_000))
    refused = launch("site", "--from", path)
    assert (refused.exit_code, f"{path} is too large" in refused.stderr) == (2, True), refused.output
    assert not storage().exists(hashlib.sha256(path.read_bytes()).hexdigest())


def test_refused_weights_file_is_not_kept(launch: Run, settings: Settings) -> None:
    path = settings.home / "weights.h5"
    path.write_bytes(b"weights")
    assert launch("site", "--from", path).exit_code == 2
    assert not storage().exists(hashlib.sha256(b"weights").hexdigest())
    assert list(storage().incoming.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"weights", "is neither HDF5 (.h5) nor a .keras file"), (None, "holds no ResNet50 of Keras's making")],
)
def test_file_without_a_resnet50_is_refused(data: bytes | None, message: str, launch: Run, settings: Settings) -> None:
    path = settings.home / "weights.h5"
    if data is None:
        with h5py.File(path, "w") as file:
            file["conv1_conv"] = np.zeros((3, 3, 3, 64), np.float32)
    else:
        path.write_bytes(data)
    result = launch("site", "--from", path)
    assert (result.exit_code, f"{path} {message}" in result.stderr) == (2, True), result.output
    with read_scope() as s:
        assert runs.list_runs(s) == []


def test_setting_initial_names_the_lineage_and_does_not_go_with_from(launch: Run) -> None:
    with session_scope() as s:
        for number in (1, 2):
            blank = {"files": {"model.keras": "0" * 64}, "metrics": {}, "parity": {}, "dataset_hash": None}
            recipe = {"note": "", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0}
            s.add(ModelVersion(name="lungs", number=number, **recipe, **blank))
    both = launch("site", "--from", "lungs/1", "--set", "initial=model:lungs/2")
    assert (both.exit_code, "leave out one of the two" in both.stderr) == (2, True)
    assert launch("site", "--set", "initial=model:lungs/2").exit_code == 0
    with read_scope() as s:
        (run,) = runs.list_runs(s)
        assert run.from_version.label == "lungs/2"
    refused = launch("site", "--set", "initial=model:lungs/3")
    assert (refused.exit_code, "there is no model version lungs/3" in refused.stderr) == (3, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["other"], 3, "there is no dataset other"),
        (["site", "--preset", "fast"], 2, "is not one of"),
        (["site", "--set", "stages.tail.epochs=1"], 2, "'tail' does not exist"),
        (["site", "--set", "stages.head.epochs=none"], 2, "valid integer"),
        (["site", "--name", "ward 3"], 2, "cannot be named 'ward 3'"),
        (["site", "--name", "x" * 65], 2, "1 to 64 letters"),
        (["site", "--seed", 2**31], 2, "2147483648 is not in the range"),
        (["site", "--from", "absent.h5"], 3, "no model version and no file absent.h5"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(launch: Run, words: list[str | int], code: int, message: str) -> None:
    result = launch(*words)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    with read_scope() as s:
        assert runs.list_runs(s) == []


def test_leak_is_refused_unless_allowed_by_name(launch: Run, dataset: Dataset) -> None:
    with session_scope() as s:
        split_of(s, s.merge(dataset))
        s.execute(update(Split).values(leaks={"identical-slices": {"count": 2, "examples": ["a"]}}))
    refused = launch("site")
    assert (refused.exit_code, "identical-slices: 2" in refused.stderr) == (2, True)
    assert launch("site", "--allow-leak", "identical-slices").exit_code == 0


def add_version(name: str, **values: object) -> None:
    blank = {"files": {"model.keras": "0" * 64}, "metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1"}
    with session_scope() as s:
        s.add(ModelVersion(name=name, number=1, threshold=0.5, temperature=1.0, **(blank | values)))


def test_run_from_a_version_keeps_its_test_part(launch: Run, dataset: Dataset) -> None:
    with session_scope() as s:
        own = split_of(s, s.merge(dataset))
    add_version("lungs", facts={"split": {"id": own.id, "dataset": "site/1"}})
    assert launch("site", "--from", "lungs/1", "--seed", 8, "--allow-leak", "seen-by-parent").exit_code == 0
    run = only_run()
    assert (run.split_id, run.seed, run.allowed_leaks) == (own.id, 8, [])


def test_run_cannot_start_from_a_version_without_its_keras_file(launch: Run) -> None:
    add_version("lungs", files={"model.xml": "0" * 64})
    refused = launch("site", "--from", "lungs/1")
    assert refused.exit_code == 2
    assert "lungs/1 holds no model.keras, so no run can start from it" in refused.stderr


def test_parts_are_drawn_anew_with_leave_if_the_test_part_lacks_a_class(launch: Run, dataset: Dataset) -> None:
    with session_scope() as s:
        s.execute(update(Dataset).values(sha256="c" * 64))
    add_version("imported", dataset_hash="c" * 64)
    refused = launch("site", "--from", "imported/1")
    assert refused.exit_code == 2
    assert "test has no COVID" in refused.stderr
    assert "allow seen-by-parent to draw all parts again" in refused.stderr
    assert launch("site", "--from", "imported/1", "--allow-leak", "seen-by-parent").exit_code == 0
    run = only_run()
    assert (run.split.rule, run.allowed_leaks) == ("groups", ["seen-by-parent"])


def test_estimate_does_not_write_once_the_split_exists(launch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch("site", "--dry-run").exit_code == 0

    def held() -> None:
        raise AssertionError("it would hold up all who write")

    monkeypatch.setattr("cli.commands.train.writing", held)
    again = launch("site", "--dry-run", "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout)["slices"]["train"] > 0


def test_groups_as_given_option_reaches_the_split(launch: Run) -> None:
    assert launch("site", "--groups-as-given").exit_code == 0
    with read_scope() as s:
        (run,) = runs.list_runs(s)
        assert run.split.rule == "groups as given"


def test_run_is_listed_and_shown_with_its_deleted_dataset(launch: Run, ask: Run, dataset: Dataset) -> None:
    launch("site")
    run = only_run()
    ask("cancel", run.id)
    delete_dataset(dataset)
    for words in (("ls",), ("show", run.id)):
        assert "\tsite/1 (deleted)" in ask(*words).stdout
    assert json.loads(ask("show", run.id, "--json").stdout)["dataset"] == "site/1"


def test_epochs_are_shown_with_the_name_of_their_stage(launch: Run, ask: Run) -> None:
    launch("site", "--preset", "scratch")
    run = only_run()
    with session_scope() as s:
        s.add(Epoch(run_id=run.id, stage=1, epoch=0, metrics={"loss": 0.5}, seconds=2.0))
    assert ask("show", run.id).stdout.splitlines()[-1].split("\t")[:3] == [run.config["stages"][1]["name"], "1", "0.5"]
    (epoch,) = json.loads(ask("show", run.id, "--json").stdout)["epochs"]
    assert (epoch["stage"], epoch["epoch"]) == (1, 0)


def test_runs_are_listed_shown_and_cancelled(launch: Run, ask: Run) -> None:
    launch("site")
    run = only_run()
    assert ask("ls").stdout.splitlines()[1].split("\t")[:5] == [str(run.id), "site", "default", "site/1", "queued"]
    assert json.loads(ask("show", run.id, "--json").stdout)["epochs"] == []
    assert ask("stop", run.id).exit_code == 1, "it does not run yet"
    assert ask("cancel", run.id).exit_code == 0
    for request in ("cancel", "stop"):
        refused = ask(request, run.id)
        assert refused.exit_code == 1
        assert "it has ended already" in refused.stderr
    assert only_run().state == Work.CANCELLED
    assert ask("wait", run.id).exit_code == 1
    assert ask("show", 99).exit_code == 3


@pytest.mark.parametrize(("progress", "note"), [(0.5, "about 2 min left in this stage"), (FIT_SHARE, "x")])
def test_time_left_of_a_stage_is_not_shown_once_training_has_ended(launch: Run, progress: float, note: str) -> None:
    assert launch("site").exit_code == 0
    at = {"stage": 0, "stages": 2, "stage_name": "small", "epoch": 0, "epochs": 1, "step": 1, "steps": 3}
    live = at | {"loss": 1.0, "rate": 5.0, "eta_seconds": 120.0}
    with session_scope() as s:
        s.execute(update(TrainingRun).values(state=Work.RUNNING, progress=progress, message="x", live=live))
    assert training_runs.note_of(training_runs.find_view(only_run().id)).split(", ")[-1] == note
