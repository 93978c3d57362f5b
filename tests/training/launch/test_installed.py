"""Whether training is installed here, and where that stands against a launch."""

from importlib.util import find_spec

import pytest

from training.launch import installed
from training.launch.installed import LIBRARIES, TrainingNotInstalled, check_installed, check_launch, install_command

PRIVATE, SHARED = "redis+socket:///run/broker.sock", "redis://broker:6379/0"


def without(*names: str):
    """A `find_spec` that finds everything but these."""
    return lambda name: None if name in names else find_spec(name)


def test_everything_is_installed_where_tests_run():
    check_installed()
    check_launch(PRIVATE)


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_missing_library_is_enough(monkeypatch, library):
    monkeypatch.setattr(installed, "find_spec", without(library))
    with pytest.raises(TrainingNotInstalled, match="`make training`, then start ctbatch again"):
        check_installed()


def test_launch_is_refused_only_where_no_other_machine_could_train(monkeypatch):
    monkeypatch.setattr(installed, "find_spec", without(*LIBRARIES))
    check_launch(SHARED)
    with pytest.raises(TrainingNotInstalled):
        check_launch(PRIVATE)


def test_command_is_pips_where_there_is_no_checkout(monkeypatch, tmp_path):
    assert install_command() == "make training"
    monkeypatch.setattr(installed, "PROJECT", tmp_path)
    assert install_command() == "pip install 'ctbatch[training]'"
