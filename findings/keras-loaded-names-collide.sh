#!/usr/bin/env bash
# Keras 3.15.1: a functional model that was loaded from a file cannot be extended with `keras.ops` in a new process.
#
# `keras.ops` calls on symbolic tensors become layers with automatic names ("subtract", "subtract_1", …). The counter of
# these names starts at 0 in each process, and loading a model does not move it. The first `ops.subtract` on a loaded
# model is called "subtract" again, and building the larger model raises:
#   ValueError: The name "subtract" is used 2 times in the model. All operation names should be unique.
# In the process that built the model the same lines work. Seen with JAX 0.10.2 and with TensorFlow 2.21.
#
# What follows for whoever extends trained networks: rebuild the network from code and load its weights alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install keras==3.15.1 jax==0.10.2 h5py==3.14.0
export KERAS_BACKEND=jax

cat >"$folder/build.py" <<'PYTHON'
import sys

import keras
from keras import ops

slices = keras.Input((4,))
model = keras.Model(slices, ops.subtract(slices, 1.0))
keras.Model(model.input, ops.subtract(model.output, 2.0))  # works: this process counts its names
model.save(sys.argv[1])
PYTHON

cat >"$folder/extend.py" <<'PYTHON'
import sys

import keras
from keras import ops

model = keras.models.load_model(sys.argv[1], compile=False)
try:
    keras.Model(model.input, ops.subtract(model.output, 2.0))
except ValueError as error:
    assert '"subtract" is used 2 times' in str(error), error
    print("as expected:", error)
else:
    sys.exit("changed: a loaded model can be extended")
PYTHON

"$folder/venv/bin/python" "$folder/build.py" "$folder/model.keras"
"$folder/venv/bin/python" "$folder/extend.py" "$folder/model.keras"
