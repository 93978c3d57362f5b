"""What a launch decides by the model version that a run starts from."""

import pytest

from db.database import session_scope
from db.models import Dataset, Epoch, ModelVersion, TrainingRun
from db.models.documents import DatasetReport
from db.training import splits
from tests.builders.datasets import add_dataset
from training.config import ConfigError
from training.launch.estimate import IMAGES_A_SECOND
from training.launch.launch import RunRequest, launch, prepare, request_of


@pytest.fixture
def version(settings):
    add_dataset("site", 48)
    blank = {"metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0}
    with session_scope() as s:
        facts = {"config": {"pixels": "torch", "hidden": 64}}
        s.add(ModelVersion(name="lungs", number=1, files={"model.keras": "0" * 64}, facts=facts, **blank))


def request(*settings: str) -> RunRequest:
    return RunRequest(dataset="site", preset="default", from_model="lungs/1", settings=settings)


@pytest.mark.parametrize("given", [(), ("pixels=torch",)])
def test_run_takes_pixels_on_the_scale_of_the_version_that_it_starts_from(given, version):
    assert prepare(request(*given)).config.pixels == "torch"


def test_another_scale_than_the_versions_is_refused(version):
    with pytest.raises(ConfigError, match=r"lungs/1 takes pixels on the scale torch"):
        prepare(request("pixels=unit"))


@pytest.mark.parametrize("given", [(), ("hidden=64",)])
def test_run_has_as_many_hidden_units_as_the_version_that_it_starts_from(given, version):
    assert prepare(request(*given)).config.hidden == 64


def test_another_number_of_hidden_units_than_the_versions_is_refused(version):
    with pytest.raises(ConfigError, match=r"lungs/1 has 64 hidden units; leave out the setting hidden"):
        prepare(request("hidden=8"))


@pytest.mark.parametrize("start", [{"from_model": "lungs/1"}, {"from_weights": "0" * 64}], ids=["model", "weights"])
def test_setting_initial_beside_a_model_or_weights_to_start_from_is_refused(start):
    with pytest.raises(ConfigError, match="the setting initial"):
        RunRequest(dataset="site", preset="default", settings=("initial = none",), **start).config()


def test_setting_preset_is_refused():
    with pytest.raises(ConfigError, match="the preset is not a setting"):
        RunRequest(dataset="site", preset="default", settings=("preset=scratch",)).config()


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 0, "name": "mine", "groups_as_given": True, "settings": ("augment.flip=false", "stages.0.name=first")},
        {"settings": ("threshold=sensitivity>=0.95", "initial=none", 'stages=[{"name":"a","unfreeze":0,"epochs":1}]')},
        {"settings": ("balanced=true",), "from_model": "lungs/1"},
    ],
    ids=["augment", "stages", "from a model"],
)
def test_request_of_a_run_launches_the_same_run(given, version):
    asked = RunRequest(dataset="site", preset="seed", **given)
    plan = prepare(asked)
    with session_scope() as s:
        again = request_of(s.get_one(TrainingRun, launch(plan)))
    assert again.model_copy(update={"settings": (), "dataset": "site"}) == asked.model_copy(update={"settings": ()})
    assert (prepare(again).config, prepare(again).split.id) == (plan.config, plan.split.id)


def test_estimate_is_made_at_the_speed_of_the_last_run(settings):
    """Its stage of small slices is quicker than one at full size, and the head does not count."""
    add_dataset("site", 48)
    fresh = prepare(RunRequest(dataset="site", preset="scratch")).takes
    assert not fresh.is_measured
    head, small = {"name": "head", "unfreeze": 0}, {"name": "small", "unfreeze": -1, "size": 128}
    stages = [stage | {"epochs": 2} for stage in (head, small)]
    with session_scope() as s:
        for speed in (500.0, IMAGES_A_SECOND / 3):
            run = TrainingRun(preset="mine", seed=7, config={"stages": stages})
            s.add(run)
            s.flush()
            for stage, rate in ((0, 5000.0), (1, speed * (224 / 128) ** 2)):
                s.add(Epoch(run_id=run.id, stage=stage, epoch=0, metrics={"rate": rate}, seconds=1.0))
    takes = prepare(RunRequest(dataset="site", preset="scratch")).takes
    assert takes.is_measured
    assert takes.seconds == pytest.approx(3 * fresh.seconds)


def test_others_write_while_the_split_of_a_run_is_drawn(settings, monkeypatch):
    dataset, draw = add_dataset("site", 48), splits.draw

    def meanwhile(*given):
        with session_scope() as s:  # where the lock is held, this fails when SQLite's busy timeout is over
            s.get_one(Dataset, dataset.id).report = DatasetReport()
        return draw(*given)

    monkeypatch.setattr(splits, "draw", meanwhile)
    assert prepare(RunRequest(dataset="site", preset="default")).split.id
