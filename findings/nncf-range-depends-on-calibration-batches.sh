#!/usr/bin/env bash
# NNCF 3.4.0 clips half of the range of an activation, or none of it, by how the same calibration data is batched.
#
# By default `nncf.quantize` takes as the largest value of an activation the mean of the maxima of the calibration
# items, and an item is what the data set yields: one sample, or a batch of samples. 100 samples whose brightness rises
# evenly from 1 to 100 give 50 one by one, 55 in tens and 100 all at once.
# One by one, half of the samples are clipped. Nothing is printed, and the accuracy on an average sample is fine.
# The estimator MINMAX takes the largest of all, and batches no longer matter. Seen (the input's range in the int8
# network, where 100 is right):
#   batches of 1: default 50, MINMAX 100
#   batches of 10: default 55, MINMAX 100
#   batches of 100: default 100, MINMAX 100
#
# What follows for whoever quantises a network: set the estimator, and compare int8 with float32 on the extremes too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install nncf==3.4.0 openvino==2026.4.1 numpy==2.4.6

cat >"$folder/quantise.py" <<'PYTHON'
import logging
import sys

import nncf
import numpy as np
import openvino
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from openvino import opset13 as op

nncf.set_log_level(logging.ERROR)
draw = np.random.default_rng(2)
samples = np.stack([draw.uniform(0, brightness, (4, 8, 8)).astype(np.float32) for brightness in range(1, 101)])


def network():
    """Return two convolutions with a ReLU between them, for any number of samples."""
    pixels = op.parameter(openvino.PartialShape([-1, 4, 8, 8]), np.float32)
    layer = pixels
    for seed in range(2):
        kernel = np.random.default_rng(seed).normal(size=(4, 4, 3, 3)).astype(np.float32)
        layer = op.relu(op.convolution(layer, op.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1]))
    return openvino.Model([layer], [pixels], "two")


def input_range(batch, estimator):
    """Return the largest value of the input that the int8 network does not clip."""
    items = [samples[start : start + batch] for start in range(0, len(samples), batch)]
    parameters = AdvancedQuantizationParameters(activations_range_estimator_params=estimator) if estimator else None
    int8 = nncf.quantize(network(), nncf.Dataset(items), subset_size=len(items), advanced_parameters=parameters)
    for node in int8.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and node.input_value(0).get_node().get_type_name() == "Parameter":
            return round(float(node.input_value(2).get_node().get_data().max()))


for batch, expected in {1: 50, 10: 55, 100: 100}.items():
    default, largest = input_range(batch, None), input_range(batch, RangeEstimatorParametersSet.MINMAX)
    print(f"batches of {batch}: default {default}, MINMAX {largest}")
    if (default, largest) != (expected, 100):
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/quantise.py" 2>/dev/null | grep batches
