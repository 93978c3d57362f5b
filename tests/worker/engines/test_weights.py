"""A network whose weights are no numbers is refused, since its scores look like any others."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

from worker.engines.openvino import OpenVinoEngine
from worker.engines.package import PackageError


def network(folder: Path, weight: float) -> Path:
    """A file of a network of one layer, with a ReLU behind it."""
    slices = ops.parameter([-1, 224, 224, 1], np.uint8, name="slices")
    slices.output(0).set_names({"slices"})
    pooled = ops.reduce_mean(ops.convert(slices, "f32"), np.array([1, 2]))
    dense = ops.relu(ops.matmul(pooled, ops.constant(np.full((1, 8), weight, np.float32)), False, False))
    logit = ops.reduce_sum(dense, np.array([1]))
    cam = ops.broadcast(ops.unsqueeze(ops.unsqueeze(logit, np.array(1)), np.array(2)), ops.constant([1, 7, 7]))
    logit.output(0).set_names({"logit"})
    cam.output(0).set_names({"cam"})
    ov.save_model(ov.Model([logit, cam], [slices]), str(folder / "network.xml"), compress_to_fp16=False)
    return folder / "network.xml"


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_weight_that_is_no_number_is_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(PackageError):
        OpenVinoEngine(network(tmp_path, weight), "f32", 1)


def test_numbers_are_loaded(tmp_path: Path) -> None:
    scores = OpenVinoEngine(network(tmp_path, 0.5), "f32", 1).predict(np.full((1, 224, 224), 2, np.uint8))
    assert scores.logit == pytest.approx([8.0])
