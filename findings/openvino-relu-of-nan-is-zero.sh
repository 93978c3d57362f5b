#!/usr/bin/env bash
# OpenVINO 2026.4.1 on a CPU: a network with a layer whose weights are all nan gives finite scores. The ReLU after the
# layer turns nan into 0, and the rest of the network goes on from there. A check that scores are finite sees nothing.
#
# ReLU, Clamp, Minimum, Maximum, ReduceMax and MaxPool all drop nan in float32: 0, a bound, the other operand, the largest
# number, or -3.4e38. Greater says that nan is greater than 0. Sigmoid, Tanh, PRelu, Gelu, Softmax and ReduceMean keep nan.
# Seen, for nan alone:
#   Relu 0, Clamp to -1 and 1: -1, Maximum with 0: 0, MaxPool -3.4e38, ReduceMax over nan and 2: 2, Greater than 0: true
#   a convolution with nan weights: nan; the same with a ReLU behind it: 0
#
# What follows for whoever exports networks: look at the weights themselves, or at the scores of another engine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install openvino==2026.4.1 numpy==2.4.6

cat >"$folder/compute.py" <<'PYTHON'
import sys

import numpy as np
import openvino
import openvino.opset13 as op

CORE = openvino.Core()
NAN = np.full((1, 1, 4, 4), np.nan, np.float32)
ONES = np.ones((1, 1, 4, 4), np.float32)
PADS = ([1, 1], [1, 1], [1, 1], [1, 1])


def first(build, values):
    """Return the first number that a network of one or two layers gives, computed in float32."""
    given = op.parameter(list(values.shape), np.float32)
    network = openvino.Model([build(given)], [given])
    return float(CORE.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(values)[0].flat[0])


def convolve(given):
    """Return a convolution whose weights are nan."""
    return op.convolution(given, op.constant(np.full((8, 1, 3, 3), np.nan, np.float32)), *PADS)


found = {
    "Relu": first(op.relu, NAN),
    "Clamp": first(lambda given: op.clamp(given, -1, 1), NAN),
    "Maximum": first(lambda given: op.maximum(given, np.float32(0)), NAN),
    "MaxPool": first(lambda given: op.max_pool(given, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0), NAN),
    "ReduceMax": first(lambda given: op.reduce_max(given, np.array([1])), np.array([[np.nan, 2]], np.float32)),
    "Greater": first(lambda given: op.convert(op.greater(given, np.float32(0)), "f32"), NAN),
    "Sigmoid": first(op.sigmoid, NAN),
    "convolution": first(convolve, ONES),
    "convolution and ReLU": first(lambda given: op.relu(convolve(given)), ONES),
}
expected = {
    "Relu": 0,
    "Clamp": -1,
    "Maximum": 0,
    "MaxPool": float(np.finfo(np.float32).min),
    "ReduceMax": 2,
    "Greater": 1,
    "Sigmoid": np.nan,
    "convolution": np.nan,
    "convolution and ReLU": 0,
}
for name, value in found.items():
    print(f"{name}: {value}")
    if not np.array_equal(value, expected[name], equal_nan=True):
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/compute.py"
