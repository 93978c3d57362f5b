"""bfloat16 is used only on devices that compute in it."""

import pytest

from worker.engines import devices
from worker.engines.processor import Processor


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [([(7, 5)], False), ([(7, 0)], False), ([(8, 0)], True), ([(9, 0), (8, 6)], True), ([(9, 0), (6, 0)], False)],
)
def test_gpu_has_bfloat16_from_compute_capability_8_on(capabilities, fast, monkeypatch):
    tensorflow = pytest.importorskip("tensorflow")
    from training.config import preset
    from training.network.training_copy import precision_of
    from worker.engines import keras

    monkeypatch.setattr(keras, "on_gpu", lambda: True)
    monkeypatch.setattr(keras, "has_bfloat16", lambda: True)  # the processor's does not count
    monkeypatch.setattr(tensorflow.config, "list_physical_devices", lambda kind: capabilities)
    details = tensorflow.config.experimental
    monkeypatch.setattr(details, "get_device_details", lambda gpu: {"compute_capability": gpu})
    assert keras.has_fast_bfloat16() == fast
    assert precision_of(preset("seed")) == ("bfloat16" if fast else "float32")


def test_processor_decides_without_a_gpu(monkeypatch):
    pytest.importorskip("tensorflow")
    from worker.engines import keras

    for there in (True, False):
        monkeypatch.setattr(keras, "on_gpu", lambda: False)
        monkeypatch.setattr(keras, "has_bfloat16", lambda there=there: there)
        assert keras.has_fast_bfloat16() == there


def test_bfloat16_is_not_used_under_a_limit_for_onednn(monkeypatch):
    monkeypatch.setattr(devices, "read_processor", lambda: Processor("AMD EPYC (Zen 4)", 2, ("AVX2", "bfloat16")))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert devices.has_bfloat16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not devices.has_bfloat16()
