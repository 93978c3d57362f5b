#!/usr/bin/env bash
# Two OpenVINO 2026.4.1 processes that ask for one thread each compute on the same core, and the other cores stay idle.
#
# The CPU plugin pins its threads on Linux (ENABLE_CPU_PINNING is True by default), and each process numbers the cores
# from the first one, without a look at what others do. One expects that the system spreads two processes of one thread
# over two cores. Here both of their threads may run on one core only, and it is the same one. The pin holds while a
# request runs and is taken back after it, so a look at an idle process shows nothing. With ENABLE_CPU_PINNING False
# the threads may run anywhere. Seen on a machine of two cores:
#   pinning by default: 1 core for two processes
#   pinning off: 0 processes are pinned
#
# What follows for whoever runs several inference processes on one machine: switch pinning off, or hand out the cores.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ "$(nproc)" -lt 2 ]; then
    echo "this needs two cores"
    exit 1
fi
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install openvino==2026.4.1 numpy==2.4.6

cat >"$folder/infer.py" <<'PYTHON'
"""Print the cores that the thread of a running request is pinned to, or nothing."""

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as op

pixels = op.parameter([1, 64, 56, 56], np.float32)
layer = pixels
for seed in range(4):
    kernel = np.random.default_rng(seed).normal(0, 0.05, (64, 64, 3, 3)).astype(np.float32)
    layer = op.relu(op.convolution(layer, op.constant(kernel), [1, 1], [1, 1], [1, 1], [1, 1]))
config = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
if sys.argv[1] == "off":
    config["ENABLE_CPU_PINNING"] = False
compiled = openvino.Core().compile_model(openvino.Model([layer], [pixels], "four"), "CPU", config)
request = compiled.create_infer_request()
batch = {0: np.ones((1, 64, 56, 56), np.float32)}
end = time.monotonic() + 5
everywhere = os.sched_getaffinity(0)
pinned: set[int] = set()


def watch() -> None:
    while time.monotonic() < end:
        for task in Path("/proc/self/task").iterdir():
            try:
                cores = os.sched_getaffinity(int(task.name))
            except OSError:
                continue
            if cores != everywhere:
                pinned.update(cores)
        time.sleep(0.002)


watcher = threading.Thread(target=watch)
watcher.start()
while time.monotonic() < end:
    request.infer(batch)
watcher.join()
print(*sorted(pinned))
PYTHON

for pinning in default off; do
    "$folder/venv/bin/python" "$folder/infer.py" "$pinning" >"$folder/first" &
    "$folder/venv/bin/python" "$folder/infer.py" "$pinning" >"$folder/second"
    wait
    cores=$(cat "$folder/first" "$folder/second" | tr ' ' '\n' | grep . | sort -u | wc -l || true)
    pinned=$(grep -c . "$folder/first" "$folder/second" | grep -c ':1$' || true)
    if [ "$pinning" = default ]; then
        echo "pinning by default: $cores core for $pinned processes"
        test "$cores $pinned" = "1 2"
    else
        echo "pinning off: $pinned processes are pinned"
        test "$pinned" = 0
    fi
done
