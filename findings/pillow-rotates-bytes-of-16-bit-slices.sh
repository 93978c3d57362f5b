#!/usr/bin/env bash
# Pillow 13.0.0 rotates a 16-bit grey slice byte by byte: with BILINEAR or BICUBIC the result shows the left half of the
# slice, twice as wide, and its columns are the low and the high bytes by turns. 1064 (0x0428) becomes 40 and 4.
# `resize` is wrong for a slice from a big-endian TIFF: it swaps bytes. Nothing is said in either case.
#
# A 16-bit grey PNG or TIFF opens in mode I;16, or in I;16B if the TIFF is big-endian. CT is kept so, as HU + 1024.
# `rotate` and `transform` take both modes for one of 8 bits where they interpolate. Their default NEAREST is right, and
# so are turns by 90 degrees. The documentation calls the support of these modes "limited". But of `rotate` it says that
# the filter is replaced for the modes 1 and P only, and other functions refuse 16 bits ("image has wrong mode"). Pillow
# 10.4 to 12.2 rotate the same. torchvision 0.27.1 rotates PIL images by Pillow: its RandomRotation, RandomAffine and
# RandomPerspective give such slices too with BILINEAR (seen, but not checked here). Seen, for a noisy disc of tissue
# (1064) in air (34), lowest and highest value, where mode F holds the same pixels and is right:
#   moved by nothing, BILINEAR:      I;16 0 to 70,     I;16B 0 to 17920,  F 4 to 1094
#   rotated by 10 degrees, NEAREST:  I;16 4 to 1094,   I;16B 4 to 1094,   F 4 to 1094
#   rotated by 10 degrees, BILINEAR: I;16 0 to 66,     I;16B 4 to 16388,  F 4 to 1090
#   rotated by 10 degrees, BICUBIC:  I;16 0 to 68,     I;16B 4 to 17668,  F -251 to 1339
#   halved, BOX:                     I;16 20 to 1079,  I;16B 34 to 50223, F 20 to 1078
#
# What follows for whoever augments or scales 16-bit slices with Pillow or torchvision: convert them to mode F or to a
# float tensor first, and compare the range of values before and after.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3

cat >"$folder/rotate.py" <<'PYTHON'
import sys

import numpy as np
import tifffile
from PIL import Image
from PIL.Image import Resampling, Transform

SIDE, FOLDER = 64, sys.argv[1]
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]
NOISE = (ROWS * 37 + COLUMNS * 23) % 61 - 30
SLICE = (np.where((ROWS - 32) ** 2 + (COLUMNS - 32) ** 2 < 24**2, 1064, 34) + NOISE).astype(np.uint16)
STEPS = {
    "moved by nothing": lambda image: image.transform(
        image.size, Transform.AFFINE, (1, 0, 0, 0, 1, 0), Resampling.BILINEAR
    ),
    "NEAREST": lambda image: image.rotate(10, Resampling.NEAREST, fillcolor=4),
    "BILINEAR": lambda image: image.rotate(10, Resampling.BILINEAR, fillcolor=4),
    "BICUBIC": lambda image: image.rotate(10, Resampling.BICUBIC, fillcolor=4),
    "BOX": lambda image: image.resize((SIDE // 2, SIDE // 2), Resampling.BOX),
}


def opened(order, mode):
    """Return the slice from a TIFF of this order. Pillow and tifffile both read its pixels as they were written."""
    path = f"{FOLDER}/{'big' if order == '>' else 'little'}.tif"
    tifffile.imwrite(path, SLICE, byteorder=order, photometric="minisblack")
    image = Image.open(path)
    assert image.mode == mode and np.array_equal(np.asarray(image), SLICE)
    assert np.array_equal(tifffile.imread(path), SLICE)
    return image


images = {"I;16": opened("<", "I;16"), "I;16B": opened(">", "I;16B"), "F": Image.fromarray(SLICE.astype(np.float32))}
seen = {}
for step, take in STEPS.items():
    for mode, image in images.items():
        seen[step, mode] = np.asarray(take(image)).astype(float)
    print(f"{step}:", *(f"{mode} {seen[step, mode].min():.0f} to {seen[step, mode].max():.0f}" for mode in images))

stored = SLICE.astype("<u2").view(np.uint8)  # low and high byte of each pixel by turns
tests = {
    "mode F is right": np.array_equal(seen["moved by nothing", "F"], SLICE)
    and SLICE.min() <= seen["BILINEAR", "F"].min() < seen["BILINEAR", "F"].max() <= SLICE.max()
    and np.allclose(seen["BOX", "F"], SLICE.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))),
    "the left half, byte by byte": np.array_equal(seen["moved by nothing", "I;16"], stored[:, :SIDE]),
    "I;16B, byte by byte": np.array_equal(
        seen["moved by nothing", "I;16B"], 256.0 * SLICE.astype(">u2").view(np.uint8)[:, :SIDE]
    ),
    "rotated": all(
        seen[step, "I;16"].max() < 256 < 10000 < seen[step, "I;16B"].max() for step in ("BILINEAR", "BICUBIC")
    ),
    "NEAREST is right, ties apart": all(
        (seen["NEAREST", mode] != seen["NEAREST", "F"]).sum() < 9 for mode in ("I;16", "I;16B")
    ),
    "resize of I;16 is right": np.abs(seen["BOX", "I;16"] - seen["BOX", "F"]).max() <= 1,
    "resize of I;16B is wrong": np.abs(seen["BOX", "I;16B"] - seen["BOX", "F"]).max() > 10000,
}
changed = [name for name, holds in tests.items() if not holds]
sys.exit(f"changed: {changed}" if changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/rotate.py" "$folder"
