"""Finds the devices of this machine without loading a framework.

To learn whether Keras computes on a GPU, call `worker.engines.keras.on_gpu`, which loads Keras.
"""

import os
from pathlib import Path

from worker.engines.processor import read_processor


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU."""
    return Path("/dev/nvidia0").exists()


def has_bfloat16() -> bool:
    """Return whether libraries may compute in bfloat16. The processor needs instructions for it (AMX or AVX512-BF16).

    Return False if `ONEDNN_MAX_CPU_ISA` is set, because under this limit OpenVINO fails in bfloat16
    (findings/openvino-fails-under-onednn-max-cpu-isa.sh).
    """
    return "bfloat16" in read_processor().features and not os.environ.get("ONEDNN_MAX_CPU_ISA")
