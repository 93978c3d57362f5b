#!/usr/bin/env bash
# Keras 3.15.1: class_weight and sample_weight have no effect on a binary network whose output is [n] instead of [n, 1].
# Nothing is said. BinaryCrossentropy averages over the last axis, which is the batch here, so it returns one number. The
# weights of the slices then only scale this number.
#
# The input is constant, and one in ten labels is 1, so a network can only learn how frequent they are. With weights of
# 1 and 9 it should end near 0.5. Seen, on JAX 0.9.2 (an output of [n] comes from a layer such as Reshape(())):
#   output [n, 1]: 0.10 without weights, 0.49 with class_weight, 0.49 with sample_weight
#   output [n]:    0.10 without weights, 0.10 with class_weight, 0.10 with sample_weight
#
# What follows for whoever balances classes: give the loss [n, 1], and test that a balanced network ends elsewhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install keras==3.15.1 jax==0.9.2 numpy==2.4.6

cat >"$folder/train.py" <<'PYTHON'
import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
import keras
import numpy as np

INPUTS = np.ones((400, 1), np.float32)
LABELS = (np.arange(400) % 10 == 0).astype(np.float32)
WEIGHTS = {
    "without weights": {},
    "class_weight": {"class_weight": {0: 1.0, 1: 9.0}},
    "sample_weight": {"sample_weight": np.where(LABELS, 9.0, 1.0).astype(np.float32)},
}
EXPECTED = {"[n, 1]": [0.1, 0.5, 0.5], "[n]": [0.1, 0.1, 0.1]}


def train(ends, weights):
    """Train on the labels. Return the probability of 1 that the network ends with."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1), *ends])
    network.compile(keras.optimizers.Adam(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
    network.fit(INPUTS, LABELS, batch_size=100, epochs=100, verbose=0, **weights)
    return float(np.ravel(keras.ops.sigmoid(network(INPUTS[:1])))[0])


for shape, ends in (("[n, 1]", []), ("[n]", [keras.layers.Reshape(())])):
    found = [train(ends, weights) for weights in WEIGHTS.values()]
    print(f"output {shape}:", ", ".join(f"{one:.2f} {name}" for name, one in zip(WEIGHTS, found)))
    if not np.allclose(found, EXPECTED[shape], atol=0.03):
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/train.py"
