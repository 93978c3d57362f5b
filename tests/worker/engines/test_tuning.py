"""The engine is tuned once for a machine and a network, and runs so from then on."""

import json
from pathlib import Path
from typing import Any

import pytest

from db.registry.manifest import FLOAT_FILE, Package
from db.settings import Settings
from worker.engines import tuning
from worker.engines.load import load_engine

Published = tuple[Path, Package, list[Any]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure as little as possible."""
    monkeypatch.setattr(tuning, "MEASURED_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "ROUNDS", 1)
    monkeypatch.setattr(tuning, "REQUESTS", (2,))


@pytest.mark.usefixtures("quick")
def test_what_tuning_finds_is_kept_and_used(published: Published, settings: Settings) -> None:
    folder, package, _ = published
    sha256 = package.files[FLOAT_FILE]
    assert tuning.kept_tuning(sha256, "f32", 2) is None
    found = tuning.tune(folder / FLOAT_FILE, sha256, "f32", 2)
    assert tuning.kept_tuning(sha256, "f32", 2) == found
    assert tuning.kept_tuning(sha256, "f32", 1) is None, "it holds for as many threads"
    assert tuning.kept_tuning("0" * 64, "f32", 2) is None, "and for this network"

    file = settings.home / "tuning.json"
    [key] = kept = json.loads(file.read_text())
    kept[key] |= {"streams": 1, "threads": 1, "request": 3}
    file.write_text(json.dumps(kept))
    tuned = load_engine(folder, "openvino-f32", threads=2).engine
    assert tuned.batch_size == 16 * 3


def test_a_damaged_file_of_tunings_is_passed_over(published: Published, settings: Settings) -> None:
    settings.home.mkdir(exist_ok=True)
    (settings.home / "tuning.json").write_text("{")
    assert load_engine(published[0], "openvino-f32", threads=2).engine.batch_size == 16 * 4 * 2
