#!/usr/bin/env bash
# OpenVINO 2026.4.1 with CACHE_DIR: after a retraining, `compile_model(path)` gives the scores of the old weights. The
# cache looks at the .xml only: its path, its size and its time of change in whole seconds. It never looks at the .bin,
# which holds the weights, nor at what either file says.
#
# A retrained network has the same layers, so its .xml has the same size and is often the same byte by byte. Then any of
# these is enough: only the .bin is replaced, the times are kept (a reproducible archive, `cp -p`, `rsync -t`, image
# layers), or both versions were written within one second. Nothing is printed. Reading the network first and compiling
# that (`compile_model(read_model(path))`) is safe: then the cache's key is made of the contents. Seen, for weights of 1
# that are replaced by weights of 2:
#   by path, only the .bin is new:                 1, taken from the cache
#   by path, both are new, times kept:             1, taken from the cache
#   by path, both are new, 0.8 s later:            1, taken from the cache
#   by path, both are new, 2 s later:              2
#   read first, both are new, times kept:          2
#
# The key is made in ModelCache::calculate_file_info of OpenVINO's source. The documentation advises to compile by path
# (Model Caching Overview, "Make it even faster: use compile_model(modelPath)"), and names no such condition there.
#
# What follows for whoever serves networks: a new path for each version, or read the network first, or no cache.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install openvino==2026.4.1 numpy==2.4.6

cat >"$folder/serve.py" <<'PYTHON'
import os
import sys
from pathlib import Path

import numpy as np
import openvino
import openvino.opset13 as op

ROOT = Path(sys.argv[1])
WEIGHTS = (1, 2)  # of the old version and of the new one
LONG_AGO = 1_700_000_000


def save(path, weight):
    """Write a network of one layer that returns its weight."""
    given = op.parameter([1, 64], np.float32)
    weights = op.constant(np.full((64, 1), weight, np.float32))
    layer = op.matmul(given, weights, False, False)
    result = op.result(layer)
    for name, node in {"given": given, "weights": weights, "layer": layer, "result": result}.items():
        node.friendly_name = name
    openvino.save_model(openvino.Model([result], [given], "network"), path)


def score(path, cache, read_first):
    """Return the score of the network at the path, and whether it came from the cache, as a new process would see it."""
    core = openvino.Core()
    core.set_property({"CACHE_DIR": str(cache)})
    compiled = core.compile_model(core.read_model(path) if read_first else path, "CPU")
    value = compiled(np.full((1, 64), 1 / 64, np.float32))[0].item()
    return round(value), compiled.get_property("LOADED_FROM_CACHE")


def replace(name, seconds, only_weights=False, read_first=False):
    """Serve the old version, replace it, and return the score of what is served then."""
    folder = ROOT / name
    folder.mkdir()
    network, staged = folder / "network.xml", folder / "staged.xml"
    for weight, changed in zip(WEIGHTS, (LONG_AGO, LONG_AGO + seconds)):
        save(staged, weight)
        os.replace(staged.with_suffix(".bin"), network.with_suffix(".bin"))
        if weight == WEIGHTS[0] or not only_weights:
            os.replace(staged, network)
            os.utime(network, (changed, changed))
        seen = score(network, folder / "cache", read_first)
        if weight == WEIGHTS[0] and seen != (1, False):
            sys.exit(f"changed: the first version gives {seen}")
    return seen


cases = {
    "by path, only the .bin is new": ({"seconds": 0, "only_weights": True}, (1, True)),
    "by path, both are new, times kept": ({"seconds": 0}, (1, True)),
    "by path, both are new, 0.8 s later": ({"seconds": 0.8}, (1, True)),
    "by path, both are new, 2 s later": ({"seconds": 2}, (2, False)),
    "read first, both are new, times kept": ({"seconds": 0, "read_first": True}, (2, False)),
}
for place, (name, (how, expected)) in enumerate(cases.items()):
    value, from_cache = replace(str(place), **how)
    print(f"{name}: {value}{', taken from the cache' if from_cache else ''}")
    if (value, from_cache) != expected:
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/serve.py" "$folder"
