"""Which engine `auto` chooses, by what is installed and what the machine has."""

import pytest

from worker.engines import base, openvino
from worker.engines.package import FLOAT_FILE, PackageError


@pytest.fixture
def without_keras(monkeypatch):
    """A machine with a GPU on which Keras is not installed; OpenVINO only says that it was chosen."""
    monkeypatch.setattr(base, "find_spec", lambda name: None)
    monkeypatch.setattr(base, "has_gpu", lambda: True)
    monkeypatch.setattr(openvino, "load_openvino", lambda folder, choice, threads: "openvino")


def test_gpu_without_keras_is_left_aside(without_keras, tmp_path):
    (tmp_path / FLOAT_FILE).touch()
    assert base.load_engine(tmp_path) == "openvino"


def test_package_for_keras_alone_says_what_is_missing(without_keras, tmp_path):
    with pytest.raises(PackageError, match="Keras is not installed here"):
        base.load_engine(tmp_path)
