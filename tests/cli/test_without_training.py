"""ctbatch where only what serving needs is installed: what trains says what to do, and all else runs."""

import os
import socket
from pathlib import Path

import pytest

from cli.commands.up import processes
from cli.supervisor.private_broker import PrivateBroker
from db.settings import Settings
from tests.cli.test_up import PROJECT, Up
from training.launch import installed
from training.launch.installed import LIBRARIES

SENTENCE = "Training is not installed here. Run `make training`, then start ctbatch again."
SHARED_BROKER = {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
PRIVATE_BROKER = {"CELERY_BROKER_URL": "redis+socket:///nowhere.sock"}


@pytest.fixture
def paths(tmp_path: Path) -> str:
    """A PYTHONPATH with which no process finds what training needs: site imports `sitecustomize` at every start."""
    folder = tmp_path / "without"
    folder.mkdir()
    code = f"import sys\nsys.modules.update(dict.fromkeys({LIBRARIES!r}))\n"
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(PROJECT), str(folder)])


@pytest.mark.parametrize(
    "words",
    [
        ["worker", "training"],
        ["bench", "training"],
        ["bench", "fitting", "site"],
        ["bench", "real-training", "."],
    ],
)
def test_command_that_trains_says_how_to_install_it(fresh_ctbatch, paths, words):
    result = fresh_ctbatch(*words, env={"PYTHONPATH": paths} | SHARED_BROKER)
    assert (result.returncode, result.stderr) == (4, f"Error: {SENTENCE}\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["train", "site"], ["train", "site", "--dry-run"]])
def test_launch_by_a_private_broker_is_refused(fresh_ctbatch, paths, words):
    result = fresh_ctbatch(*words, env={"PYTHONPATH": paths} | PRIVATE_BROKER)
    assert (result.returncode, result.stderr) == (4, f"Error: {SENTENCE}\n")


@pytest.mark.slow
def test_launch_for_another_machine_is_not_refused(fresh_ctbatch, paths):
    result = fresh_ctbatch("train", "site", env={"PYTHONPATH": paths} | SHARED_BROKER)
    assert "the database is not set up" in result.stderr, "it came as far as the dataset"


@pytest.mark.parametrize("words", [["up", "--port", "0", "--engine", "keras"], ["worker", "inference"]])
def test_engine_that_comes_with_training_is_refused(fresh_ctbatch, paths, words):
    result = fresh_ctbatch(*words, env={"PYTHONPATH": paths, "CTBATCH_ENGINE": "keras"} | SHARED_BROKER)
    assert (result.returncode, result.stderr) == (4, f"Error: the engine keras comes with training. {SENTENCE}\n")


@pytest.mark.slow
def test_doctor_warns_and_names_the_command(fresh_ctbatch, paths):
    result = fresh_ctbatch("doctor", env={"PYTHONPATH": paths})
    assert result.returncode == 0, result.stdout
    assert "training" in result.stdout
    assert "make training" in result.stdout


@pytest.mark.parametrize(("there", "roles"), [(True, {"training", "evaluation"}), (False, {"evaluation"})])
def test_up_starts_a_training_worker_only_where_it_could_train(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, there: bool, roles: set[str]
) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: object() if there else None)
    broker: PrivateBroker | None = None
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        started = {process.role: process.argv for process in processes(settings, listener, broker)}
    assert started.keys() & {"training", "evaluation"} == roles
    assert started.keys() >= {"web", "ingest", "inference", "sweep"}
    modules = {argv[argv.index("-m") + 1] for argv in started.values()}
    assert modules == {"gunicorn", "celery", "worker.sweep"}, "none starts a second time on the way"


@pytest.mark.slow
def test_everything_but_training_runs(tmp_path, paths):
    up = Up(tmp_path, PYTHONPATH=paths)
    try:
        up.wait_until_ready()
        printed = up.log.read_text().splitlines()
        assert printed[0] == f"up        | {SENTENCE}"
        assert up.run("worker", "evaluation", "--check").stdout == "evaluation is healthy\n"
        assert not any("-Q training" in line for line in up.descendants().values())
        refused = up.run("train", "site")
        assert (refused.returncode, refused.stderr) == (4, f"Error: {SENTENCE}\n")
    finally:
        up.process.terminate()
        up.process.wait(60)
