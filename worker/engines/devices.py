"""The devices of this machine, found without loading a framework. `keras.on_gpu` is Keras's own answer."""

from pathlib import Path

from worker.engines.processor import read_processor


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU."""
    return Path("/dev/nvidia0").exists()


def has_bfloat16() -> bool:
    """Return whether this processor computes in bfloat16 itself (AMX or AVX512-BF16)."""
    return "bfloat16" in read_processor().features
