"""Measures a whole training run on labelled slices: dataset, split, training, evaluation and package."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cli.benchmarks.server import our_environment, use_home
from cli.output import print_json, print_table, say
from cli.supervisor.background_up import serving
from db import migrate
from db.database import read_scope
from db.metrics import METRICS
from db.registry import champions
from db.settings import get_settings
from db.training import runs
from training.launch.launch import RunRequest
from worker.engines.devices import has_bfloat16

NAME = "real"


def run(path: Path, request: RunRequest, home: Path | None, as_json: bool) -> None:
    """Make a dataset from `path`, run `ctbatch train` on it, and print the metrics with their intervals."""
    with ExitStack() as stack:
        folder = home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctbatch-train-")))
        use_home(folder.absolute())
        migrate.upgrade()
        stack.enter_context(serving(get_settings(), ("--host", "127.0.0.1", "--port", "0")))
        _command("datasets", "create", request.dataset, "--from", str(path.absolute()))
        started = time.monotonic()
        _command("train", *train_words(request), "--wait")
        minutes = (time.monotonic() - started) / 60
        _print(minutes, as_json)


def train_words(request: RunRequest) -> list[str]:
    """Return the arguments with which `ctbatch train` makes this request."""
    words = [request.dataset, "--preset", request.preset, "--seed", str(request.seed)]
    words += [word for setting in request.settings for word in ("--set", setting)]
    words += [word for leak in request.allow_leaks for word in ("--allow-leak", leak)]
    return [*words, *(["--groups-as-given"] if request.groups_as_given else [])]


def _command(*words: str) -> None:
    """Run one of our own commands, as a person would. Its output goes to stderr."""
    command = [sys.executable, "-P", "-m", "cli", *words]
    subprocess.run(command, check=True, env=our_environment(), stdout=sys.stderr)  # noqa: S603  (our own code)


def _print(minutes: float, as_json: bool) -> None:
    with read_scope() as session:
        last = runs.list_runs(session)[0]
        version = last.model_version
        if version is None:
            raise RuntimeError(f"training run {last.id} made no model version: {last.error}")
        facts: dict[str, Any] = {
            "model_version": version.label,
            "preset": last.preset,
            "seed": last.seed,
            "split": last.split.description if last.split else None,
            "leaks": last.split.leaks if last.split else {},
            "minutes": round(minutes, 1),
            "training_minutes": round((version.facts.training_seconds or 0) / 60, 1),
            "cores": os.cpu_count(),
            "bfloat16": has_bfloat16(),
            "metrics": version.metrics,
            "parity": version.parity,
            "champion": bool(champions.champion(session)),
        }
    if as_json:
        print_json(facts)
        return
    say(f"{facts['minutes']} minutes in all, {facts['training_minutes']} of them training, on {facts['cores']} cores")
    leaks = ", ".join(f"{name} {leak['count']}" for name, leak in facts["leaks"].items())
    say(f"split by {facts['split']}, seed {facts['seed']}; leaks: {leaks or 'none'}")
    intervals = version.metrics.get("intervals", {})
    rows = []
    for name in METRICS:
        interval = " to ".join(f"{end:.4f}" for end in intervals.get(name) or ())
        rows.append([name, f"{version.metrics[name]:.4f}", interval])
    rows.append(["out of distribution", f"{version.metrics['ood_share']:.4f}", ""])
    print_table((f"on {version.metrics['n']} unseen slices", "value", "95 % interval"), rows)
