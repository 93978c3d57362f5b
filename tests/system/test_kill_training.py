"""Ends of a worker that trains, by `kill -9` or on request: another goes on, and the run ends once."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import Whole

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

LAUNCH = """
from db.training import runs
from db.database import session_scope
from tests.builders.datasets import add_dataset, split_of
from training.config import preset, with_settings

tiny = ["initial=none", "hidden=8"]
tiny += [f"stages.{stage}.{what}" for stage in ("head", "last-20") for what in ("size=32", "copies=1", "patience=0")]
tiny += ["stages.head.epochs=2", "stages.last-20.epochs=60"]
config = with_settings(preset("seed"), tiny).model_dump(mode="json")
config["stages"] = config["stages"][:2]
dataset = add_dataset("site", 48)
with session_scope() as s:
    dataset = s.merge(dataset)
    split = split_of(s, dataset)
    run = runs.create_run(s, runs.NewRun(dataset, split, "seed", config, seed=7))
print(run.id)
"""
SHOW = """
import json, sys
from db.training import runs
from db.database import read_scope
from db.models import TrainingRun
with read_scope() as s:
    run = s.get_one(TrainingRun, int(sys.argv[1]))
    epochs = [(e.stage, e.epoch) for e in runs.epochs_of(s, run.id)]
    version = run.model_version.label if run.model_version else None
    print(json.dumps({"state": run.state, "claims": run.fence, "attempts": run.attempts, "error": run.error,
                      "epochs": epochs, "version": version, "checkpoint": run.checkpoint.get("epoch")}))
"""


@pytest.fixture
def whole(tmp_path: Path) -> Any:
    """A ctbatch whose training writes a checkpoint after every epoch."""
    system = Whole(tmp_path / "home", CTBATCH_STALL_SECONDS="300", CTBATCH_CHECKPOINT_SECONDS="0")
    system.prepare()
    system.start()
    yield system
    system.stop()


def wait_for(whole: Whole, run_id: str, what: Any, seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run: dict[str, Any] = json.loads(whole.run_python(SHOW, run_id))
        assert run["state"] != "failed", run["error"]
        if what(run):
            return run
        time.sleep(0.5)  # each look takes a process, which takes time from the training
    raise AssertionError(run)


def test_training_goes_on_from_the_last_checkpoint(whole: Whole) -> None:
    run_id = whole.run_python(LAUNCH).strip()
    before = wait_for(whole, run_id, lambda run: len(run["epochs"]) >= 5 and run["checkpoint"] is not None, 300)
    os.kill(whole.processes()["training child"][0].pid, signal.SIGKILL)
    assert before["state"] == "running", "it was over before it could be killed"
    after = wait_for(whole, run_id, lambda run: run["state"] == "done", 500)
    assert after["claims"] == 2
    assert after["version"] == "site/1"
    assert after["epochs"] == [[0, 0], [0, 1], *([1, epoch] for epoch in range(60))]


def test_run_of_a_worker_that_is_asked_to_stop_goes_back_to_the_queue(whole: Whole) -> None:
    run_id = whole.run_python(LAUNCH).strip()
    for claims in (1, 2):
        started = wait_for(whole, run_id, lambda run, claims=claims: run["claims"] == claims, 300)
        assert (started["state"], started["attempts"]) == ("running", 1)
        [worker] = whole.processes()["training"]
        worker.terminate()
        worker.wait(60)
    after = wait_for(whole, run_id, lambda run: run["claims"] == 3, 300)
    assert after["attempts"] == 1, "a worker that was stopped did not die"
