#!/usr/bin/env bash
# Keras 3.15.1 on its OpenVINO backend (openvino 2026.4.1): `ops.image.resize(antialias=True)` and the layer `Resizing`
# take the argument and do not smooth, and "nearest" takes other pixels than on TensorFlow. Nothing is said.
#
# A model that resizes as its first step therefore sees other pictures where it serves than where it was trained. Seen,
# for a row of 512 pixels, 0 and 200 by turns, made 224 wide: the mean is 100, and smoothed pixels lie near it
#   bilinear, antialias: TensorFlow 96 to 104, OpenVINO 14 to 186, the same as its result without antialias
#   nearest:             TensorFlow takes pixels 1, 3, 5, 8, 10 first, OpenVINO 2, 4, 6, 8, 11
#
# What follows for whoever serves Keras models on this backend: resize before the model, and compare scores.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install keras==3.15.1 openvino==2026.4.1 \
    scipy==1.17.1 tensorflow-cpu==2.21.0 numpy==2.4.6  # the OpenVINO backend needs scipy and does not ask for it

cat >"$folder/resize.py" <<'PYTHON'
import sys

import keras
import numpy as np

stripes = np.zeros((1, 8, 512, 1), np.float32)
stripes[:, :, 1::2] = 200
ramp = np.tile(np.arange(512, dtype=np.float32), (8, 1))[None, ..., None]


def resized(picture, **options):
    """Return a row of a picture that a model of one layer has made 224 wide."""
    given = keras.Input((8, 512, 1))
    model = keras.Model(given, keras.layers.Resizing(8, 224, **options)(given))
    return np.asarray(model.predict(picture, verbose=0))[0, 4, :, 0]


smooth, plain = resized(stripes, antialias=True), resized(stripes, antialias=False)
nearest = resized(ramp, interpolation="nearest")
inside = smooth[4:-4]
facts = {
    "smoothed": bool(inside.min() > 50 and inside.max() < 150),
    "same without antialias": bool(np.array_equal(smooth, plain)),
    "first of nearest": nearest[:5].tolist(),
}
print(keras.backend.backend(), [round(float(edge)) for edge in (inside.min(), inside.max())], facts)
expected = {
    "tensorflow": {"smoothed": True, "same without antialias": False, "first of nearest": [1, 3, 5, 8, 10]},
    "openvino": {"smoothed": False, "same without antialias": True, "first of nearest": [2, 4, 6, 8, 11]},
}
if facts != expected[keras.backend.backend()]:
    sys.exit("changed")
PYTHON

for backend in tensorflow openvino; do
    KERAS_BACKEND=$backend TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/resize.py"
done
