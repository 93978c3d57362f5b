"""Finds the devices of this machine without loading a framework.

To learn whether Keras computes on a GPU, call `worker.engines.keras.on_gpu`, which loads Keras.
"""

from pathlib import Path

from worker.engines.processor import read_processor


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU."""
    return Path("/dev/nvidia0").exists()


def has_bfloat16() -> bool:
    """Return whether this processor has instructions for bfloat16 (AMX or AVX512-BF16)."""
    return "bfloat16" in read_processor().features
