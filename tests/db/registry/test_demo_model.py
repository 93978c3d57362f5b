"""The demo model that ships: its file is whole, it knows phantoms, and it becomes the first champion only."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from db.database import read_scope, session_scope
from db.evaluation.promotion import promote_demo_model
from db.registry import champions, demo_model
from db.registry.calibration import calibration_of, limit_of
from db.registry.demo_model import DEMO_FILE, DemoModelDamaged, import_demo_model
from db.settings import Settings
from tests.builders.versions import add_champion
from worker.engines.load import load_engine
from worker.engines.package import probability, read_package
from worker.imaging.recipe import RECIPE
from worker.phantoms.slices import labelled_slices

FRESH_SEED = 90_001  # no phantom of the model's training, validation or test has it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, unpacked."""
    folder = tmp_path_factory.mktemp("demo")
    with tarfile.open(DEMO_FILE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_demo_file_is_small_and_matches_its_manifest(folder: Path) -> None:
    assert DEMO_FILE.stat().st_size <= 24_000_000
    package = read_package(folder)
    assert package.files.keys() == {"MODEL_CARD.md", "model-int8.bin", "model-int8.xml", "proof.npz"}
    assert "knows nothing about patients" in package.note
    assert package.parity["int8"]["passed"]


def test_demo_model_classifies_new_phantoms(folder: Path) -> None:
    package = read_package(folder)
    assert package.metrics["accuracy"] >= 0.97
    assert package.metrics["auc"] >= 0.995
    proven = load_engine(folder)
    assert proven.engine.precision == "int8"
    drawn = labelled_slices(FRESH_SEED, 10, 1)
    temperature, threshold = calibration_of(package, proven.engine.name)
    positive = probability(proven.engine.predict(drawn.pixels).logit, temperature) >= threshold
    assert (positive == drawn.labels).mean() >= 0.9
    assert np.isfinite(package.metrics["heat"]["share"])


def test_row_24_what_is_no_ct_slice_is_out_of_distribution(folder: Path) -> None:
    package, engine = read_package(folder), load_engine(folder).engine
    noise = np.random.default_rng(0).integers(0, 256, (4, 224, 224), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 224).astype(np.uint8), (1, 224, 224))
    strange, phantoms = (
        engine.predict(np.concatenate([noise, ramp])),
        engine.predict(labelled_slices(FRESH_SEED, 5, 1).pixels),
    )
    limit = limit_of(package.ood, engine.name)
    assert limit is not None
    assert (strange.distance > limit).all()
    assert (phantoms.distance <= limit).mean() >= 0.8


def test_demo_model_becomes_champion_if_there_is_no_champion(database: Settings) -> None:
    label = promote_demo_model(RECIPE)
    assert label == "demo/1"
    assert promote_demo_model(RECIPE) == label
    with read_scope() as s:
        champion = champions.champion(s)
        assert champion is not None
        assert champion.label == label
        assert len(champions.promotions(s)) == 1


def test_demo_model_does_not_replace_a_champion(database: Settings) -> None:
    add_champion(database.home)
    with session_scope() as s:
        before = champions.champion(s)
        assert before is not None
    assert promote_demo_model(RECIPE) == before.label
    assert import_demo_model(RECIPE) == "demo/1"


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_damaged_demo_file_names_the_command_that_makes_it_again(
    damage: str, database: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / DEMO_FILE.name
    if damage == "cut off":
        file.write_bytes(DEMO_FILE.read_bytes()[:1_000_000])
    monkeypatch.setattr(demo_model, "DEMO_FILE", file)
    with pytest.raises(DemoModelDamaged, match="make demo-model"):
        promote_demo_model(RECIPE)
