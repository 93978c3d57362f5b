#!/usr/bin/env bash
# OpenVINO 2026.4.1 on a processor with bfloat16 (AVX512_BF16), with ONEDNN_MAX_CPU_ISA=AVX2 and no option: a network of
# one convolution is not compiled ("object is not initialized"), nor is one of a matrix product ("could not create a
# primitive descriptor for the inner product forward propagation primitive"). Neither message names bfloat16 or the
# variable.
#
# OpenVINO asks the processor, and computes in bfloat16 by default where it can. oneDNN, which computes within OpenVINO,
# obeys the variable, and has no bfloat16 for AVX2. With INFERENCE_PRECISION_HINT=f32, both networks compute. The variable
# is oneDNN's own, and oneDNN is within TensorFlow too. There it does no harm, so who sets it for TensorFlow stops OpenVINO
# in the same environment. OpenVINO's builds for debugging have OV_CPU_MAX_ISA since July 2026 (pull request 36980).
#
# What follows: set the hint wherever the variable may be set, or keep it out of the environment of workers.
#
# On a processor without AVX512_BF16 there is nothing to see: this says so and ends with 0.
set -euo pipefail
if ! grep -q -w avx512_bf16 /proc/cpuinfo; then
    echo "this processor has no AVX512_BF16"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install openvino==2026.4.1 numpy==2.4.6

cat >"$folder/compute.py" <<'PYTHON'
import sys

import numpy as np
import openvino
import openvino.opset13 as op

PADS = ([1, 1], [1, 1], [1, 1], [1, 1])
layer, options = sys.argv[1], dict(word.split("=") for word in sys.argv[2:])
if layer == "convolution":
    values = np.ones((1, 16, 8, 8), np.float32)
    given = op.parameter(list(values.shape), np.float32)
    last = op.convolution(given, op.constant(np.ones((16, 16, 3, 3), np.float32)), *PADS)
else:
    values = np.ones((8, 64), np.float32)
    given = op.parameter(list(values.shape), np.float32)
    last = op.matmul(given, op.constant(np.ones((64, 32), np.float32)), False, False)
step = "compiling"
try:
    network = openvino.Core().compile_model(openvino.Model([last], [given]), "CPU", options)
    step = "computing"
    network(values)
except RuntimeError as error:
    known = ("object is not initialized", "could not create a primitive descriptor")
    print(f"{step} fails:", next((text for text in known if text in str(error)), error))
else:
    print("computes")
PYTHON

try_() {
    local expected=$1 variable=$2
    shift 2
    found=$(env $variable "$folder/venv/bin/python" "$folder/compute.py" "$@")
    echo "$* $variable: $found"
    [ "$found" = "$expected" ] || { echo changed; exit 1; }
}
limit=ONEDNN_MAX_CPU_ISA=AVX2
hint=INFERENCE_PRECISION_HINT=f32
try_ "computes" "" convolution
try_ "compiling fails: object is not initialized" $limit convolution
try_ "computes" $limit convolution $hint
try_ "computes" "" matmul
try_ "compiling fails: could not create a primitive descriptor" $limit matmul
try_ "computes" $limit matmul $hint
