#!/usr/bin/env bash
# Keras 3.15.1: RandomBrightness turns bright pixels of uint8 slices dark. 204 made brighter by 30 % is 24, not 255. Made
# darker, a slice stays as it is on JAX 0.9.2, and on TensorFlow 2.21 its black pixels turn bright.
#
# The layer is documented to take "float or int dtype" and to clip its output to `value_range`. It casts the change to the
# type of the pixels, adds it in that type, and clips afterwards, when the sum has already wrapped. A negative change cast
# to uint8 is 0 on JAX, and wraps on TensorFlow (on x86-64). RandomRotation, RandomErasing and most others give float32.
# Seen, for the pixels 0, 51, 102, 153, 204, 255 and factors of 0.3 and -0.3 (76.5 grey values):
#   float32, both:       76.5 127.5 178.5 229.5 255 255     0 0 25.5 76.5 127.5 178.5
#   uint8, JAX:          76 127 178 229 24 75               0 51 102 153 204 255
#   uint8, TensorFlow:   76 127 178 229 24 75               180 231 26 77 128 179
# A network trained on such slices sees bone that is dark and air that is bright, and nothing fails. A model with a uint8
# input states float32 as the type of this layer's output, but uint8 comes out.
#
# What follows for whoever augments slices: convert to float32 before the first layer, and look at the result.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install keras==3.15.1 jax==0.9.2 tensorflow-cpu==2.21.0 \
    numpy==2.4.6

cat >"$folder/brighten.py" <<'PYTHON'
import sys

import keras
import numpy as np

BACKEND = keras.backend.backend()
PIXELS = np.arange(0, 256, 51, dtype=np.uint8).reshape(1, 1, 6, 1)
RIGHT = {0.3: [76.5, 127.5, 178.5, 229.5, 255, 255], -0.3: [0, 0, 25.5, 76.5, 127.5, 178.5]}
WRAPPED = [76, 127, 178, 229, 24, 75]  # 0.3 in uint8


def is_as_stated(kind, factor, pixels):
    """Return whether float32 is right, and whether uint8 is wrong as the comment above says."""
    if kind == "float32":
        return np.allclose(pixels, RIGHT[factor], atol=0.01)
    if factor > 0:
        return pixels.tolist() == WRAPPED
    # What a negative number is in uint8 depends on the backend and the processor. It is never darker by 76.
    return np.abs(pixels.astype(float) - RIGHT[factor]).max() > 70


for kind in ("float32", "uint8"):
    for factor in RIGHT:
        given = keras.Input((1, 6, 1), dtype=kind)
        layer = keras.layers.RandomBrightness((factor, factor), value_range=(0, 255), seed=0)
        network = keras.Model(given, layer(given))
        for use in (layer, network):
            seen = np.asarray(use(PIXELS.astype(kind), training=True))
            print(f"{BACKEND}, {kind}, {factor}:", *np.round(seen.ravel(), 1).tolist())
            if seen.dtype != kind or network.output.dtype != "float32" or not is_as_stated(kind, factor, seen.ravel()):
                sys.exit("changed")
PYTHON

for backend in jax tensorflow; do
    KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/brighten.py" 2>"$folder/errors" || {
        tail -n 3 "$folder/errors"
        exit 1
    }
done
