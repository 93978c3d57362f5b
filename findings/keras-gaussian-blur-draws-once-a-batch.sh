#!/usr/bin/env bash
# RandomGaussianBlur of Keras 3.15.1 draws one blur for a whole batch, and another one for each of the two axes.
#
# Its documentation says that sigma "is sampled between the two for each image", as the other random layers do. It is
# drawn once a call: 64 images that went through in one batch all got the same sigma, or none. And two numbers are
# drawn, so rows are blurred by another sigma than columns: the blur is not round. `factor` is not how strong the blur
# is ("1.0 performs the most aggressive blurring"). It is a chance, itself drawn from 0 to factor: with the default of
# 1.0 half of the images stay sharp. Seen, with sigma from 0.2 to 3:
#   64 images of a batch: 1 sigma of rows, 1 sigma of columns: 0.57 1.99
#   share of images that are blurred with factor 1.0: 0.5
#
# What follows for whoever trains on batches of 32: a training step sees one blur, not 32. Draw it in code of your own,
# or give the layer one image at a time.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install keras==3.15.1 jax==0.10.0 numpy==2.4.6

cat >"$folder/blur.py" <<'PYTHON'
import sys

import keras
import numpy as np

SIZE, MIDDLE = 41, 20
point = np.zeros((SIZE, SIZE, 1), np.float32)
point[MIDDLE, MIDDLE] = 255
batch = np.stack([point] * 64)
offsets = np.arange(SIZE) - MIDDLE


def spread(blurred, axis):
    """Return the standard deviation of each blurred point along an axis, in pixels."""
    profile = blurred[..., 0].sum(axis)
    return np.sqrt((profile * offsets**2).sum(1) / profile.sum(1)).round(2)


always = keras.layers.RandomGaussianBlur(factor=(1.0, 1.0), kernel_size=21, sigma=(0.2, 3.0), seed=4)
for _ in range(5):
    blurred = np.asarray(always(batch, training=True))
    rows, columns = set(spread(blurred, 2)), set(spread(blurred, 1))
    print(f"64 images of a batch: {len(rows)} sigma of rows, {len(columns)} sigma of columns:", *rows, *columns)
    if len(rows) != 1 or len(columns) != 1 or rows == columns:
        sys.exit("changed")

default = keras.layers.RandomGaussianBlur(factor=1.0, kernel_size=21, sigma=(1.0, 3.0), seed=4)
images = np.concatenate([np.asarray(default(batch, training=True)) for _ in range(40)])
share = float((images[:, MIDDLE, MIDDLE, 0] < 200).mean())
print(f"share of images that are blurred with factor 1.0: {share:.1f}")
if not 0.45 < share < 0.55:
    sys.exit("changed")
PYTHON

KERAS_BACKEND=jax "$folder/venv/bin/python" "$folder/blur.py"
