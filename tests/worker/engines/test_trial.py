"""An imported model version is tried in a confined process: it must load, end, and give numbers."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from db.database import read_scope
from db.models import EngineProof, ModelVersion
from tests.builders.networks import keras_file_with_link
from tests.builders.versions import fake_package
from worker.engines import trial
from worker.engines.interface import Scores

PROJECT = Path(__file__).parents[3]
ATTEMPTS = """
import json, os, signal, socket, subprocess, sys
from worker.imaging.sandbox.seccomp import forbid_effects

folder = sys.argv[1]
assert forbid_effects() is None
attempts = {
    "read": lambda: open(folder + "/there").read(),
    "write": lambda: open(folder + "/there", "a"),
    "create": lambda: open(folder + "/new", "w"),
    "remove": lambda: os.unlink(folder + "/there"),
    "rename": lambda: os.rename(folder + "/there", folder + "/elsewhere"),
    "folder": lambda: os.mkdir(folder + "/folder"),
    "socket": lambda: socket.socket(),
    "program": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "kill": lambda: os.kill(os.getppid(), 0),
    "signal": lambda: signal.pidfd_send_signal(os.open(f"/proc/{os.getppid()}", os.O_RDONLY), 0),
    "mode": lambda: os.chmod(folder + "/there", 0o600),
    "mode of an open file": lambda: os.chmod(os.open(folder + "/there", os.O_RDONLY), 0o600),
    "owner of an open file": lambda: os.chown(os.open(folder + "/there", os.O_RDONLY), 0, 0),
    "attribute": lambda: os.setxattr(folder + "/there", "user.mark", b"1"),
    "time": lambda: os.utime(folder + "/there"),
}
allowed = []
for name, attempt in attempts.items():
    try:
        attempt()
        allowed.append(name)
    except PermissionError:
        pass
print(json.dumps(allowed))
"""


def test_confined_process_can_only_read(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("here")
    words = [sys.executable, "-B", "-c", ATTEMPTS, str(tmp_path)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["read"]


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_result_of_a_trial_is_kept(champion: ModelVersion) -> None:
    [result] = trial.try_version(champion)
    assert (result.engine, result.passed) == ("fake", True)
    with read_scope() as s:
        assert [proof.engine for proof in s.scalars(select(EngineProof))] == ["fake"]


def test_network_that_cannot_be_loaded_fails(tmp_path: Path) -> None:
    folder = fake_package(tmp_path / "package")
    manifest = json.loads((folder / "package.json").read_text())
    (folder / "package.json").write_text(
        json.dumps(manifest | {"files": {"model.xml": "0" * 64, "model.bin": "0" * 64}})
    )
    [result] = trial.try_package(folder, "openvino-f32")
    assert not result.passed
    assert "model.xml is missing" in result.text


@pytest.mark.skipif(find_spec("keras") is None, reason="without Keras, nothing reads the file")
def test_network_whose_weights_name_another_file_is_not_tried(tmp_path: Path) -> None:
    folder = fake_package(tmp_path / "package", files={"model.keras": keras_file_with_link()})
    [result] = trial.try_package(folder, "fake")
    assert not result.passed
    assert "holds a soft or external link" in result.text


def test_trial_without_an_end_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    [result] = trial.try_package(fake_package(tmp_path / "package"), "fake")
    assert not result.passed
    assert "more than" in result.text


def test_trial_that_gives_way_has_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_LAUNCH", "import time; time.sleep(600)")
    looks = iter([False, True])
    assert trial.try_package(fake_package(tmp_path / "package"), "fake", gives_way=lambda: next(looks)) == []


UNFILTERED = """
import sys
sys.path[:0] = sys.argv[1:2]
from worker.imaging.sandbox import seccomp
seccomp._MACHINES.clear()
from worker.engines.trial import main
main(*sys.argv[2:])
"""


def test_nothing_is_tried_where_the_filter_cannot_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_LAUNCH", UNFILTERED)
    [result] = trial.try_package(fake_package(tmp_path / "package"), "fake")
    assert not result.passed
    assert "cannot confine its trial" in result.text


def test_process_that_never_stops_writing_fails_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_LAUNCH", "import os\nwhile True: os.write(1, bytes(1 << 16))")
    [result] = trial.try_package(fake_package(tmp_path / "package"), "fake")
    assert (result.passed, "broke off" in result.text) == (False, True)


def test_process_that_dies_fails_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_LAUNCH", "import os; os.write(1, b'[]'); os.abort()")
    [result] = trial.try_package(fake_package(tmp_path / "package"), "fake")
    assert not result.passed
    assert "broke off" in result.text


GOOD = Scores(np.zeros(2, np.float32), np.zeros((2, 7, 7), np.float32), None)
FAULTY = {
    "a logit that is not a number": Scores(np.array([0, np.nan], np.float32), GOOD.cam, None),
    "one logit too few": Scores(np.zeros(1, np.float32), GOOD.cam, None),
    "another heat map": Scores(GOOD.logit, np.zeros((2, 14, 14), np.float32), None),
    "an endless distance": Scores(GOOD.logit, GOOD.cam, np.array([0, np.inf], np.float32)),
}


@pytest.mark.parametrize("scores", FAULTY.values(), ids=FAULTY)
def test_scores_of_phantoms_must_be_numbers_of_the_right_shapes(scores: Scores) -> None:
    assert trial._fault(GOOD, 2) is None
    assert trial._fault(scores, 2)


NOT_A_NUMBER = """
import sys
sys.path[:0] = sys.argv[1:2]
from worker.engines.fake import FakeEngine
from worker.engines.trial import main
predict = FakeEngine.predict
def spoil(engine, slices):
    scores = predict(engine, slices)
    scores.logit[-1] = float("nan")
    return scores
FakeEngine.predict = spoil
main(*sys.argv[2:])
"""


@pytest.mark.slow
def test_network_that_gives_no_number_for_a_phantom_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_LAUNCH", NOT_A_NUMBER)
    [result] = trial.try_package(fake_package(tmp_path / "package"), "fake")
    assert not result.passed
    assert "its logit is not a number for a phantom" in result.text


@pytest.mark.slow
@pytest.mark.parametrize("choice", [pytest.param("keras", marks=pytest.mark.slow), "openvino"])
def test_real_engine_runs_confined(published: tuple[Path, Any, Any], choice: str) -> None:
    *_, last = trial.try_package(published[0], choice)
    assert last.passed, last.text
