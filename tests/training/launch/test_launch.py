"""What a launch decides by the model version that a run starts from."""

import pytest

from db.database import session_scope
from db.models import ModelVersion
from tests.builders.datasets import add_dataset
from training.config import ConfigError
from training.launch.launch import RunRequest, prepare


@pytest.fixture
def version(settings):
    add_dataset("site", 48)
    blank = {"metrics": {}, "parity": {}, "note": "", "recipe": "lung-224-v1", "threshold": 0.5, "temperature": 1.0}
    with session_scope() as s:
        facts = {"config": {"pixels": "torch"}}
        s.add(ModelVersion(name="lungs", number=1, files={"model.keras": "0" * 64}, facts=facts, **blank))


def request(*settings: str) -> RunRequest:
    return RunRequest(dataset="site", preset="default", from_model="lungs/1", settings=settings)


@pytest.mark.parametrize("given", [(), ("pixels=torch",)])
def test_run_takes_pixels_on_the_scale_of_the_version_that_it_starts_from(given, version):
    assert prepare(request(*given)).config.pixels == "torch"


def test_another_scale_than_the_versions_is_refused(version):
    with pytest.raises(ConfigError, match=r"lungs/1 takes pixels on the scale torch"):
        prepare(request("pixels=unit"))
