"""Handles the differences between Keras's backends, and describes the one that is used here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata

import keras

from training.errors import NotRepeatable


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 in full precision. On GPUs with TF32, TensorFlow would round to the 10 bits of TF32."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.config import experimental as precision

    before = precision.tensor_float_32_execution_enabled()
    precision.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        precision.enable_tensor_float_32_execution(before)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise MemoryError in place of TensorFlow's own error, so that callers need not know the backend."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.errors import ResourceExhaustedError

    try:
        yield
    except ResourceExhaustedError as error:
        raise MemoryError(str(error)) from error


def compute_repeatably() -> None:
    """Make training in this process repeatable: the same run gives the same weights. Call this before computing.

    The process then uses one core. TensorFlow's deterministic operations are not enough: with two threads, steps of
    ResNet50 that XLA had compiled differed from process to process. With one thread they did not.

    Raises NotRepeatable: the process has computed already with several threads, or Keras does not use TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise NotRepeatable("runs repeat with TensorFlow only; set KERAS_BACKEND=tensorflow")
    from tensorflow import config

    for name in ("intra_op_parallelism_threads", "inter_op_parallelism_threads"):
        if getattr(config.threading, f"get_{name}")() != 1:
            try:
                getattr(config.threading, f"set_{name}")(1)
            except RuntimeError as error:
                raise NotRepeatable("this worker has already computed with several threads; restart it") from error
    config.experimental.enable_op_determinism()


def environment() -> dict[str, str]:
    """Return the versions and devices that affect the metrics of a run."""
    backend = keras.backend.backend()
    return {
        "backend": backend,
        backend: str(import_module(backend).__version__),
        "keras": keras.__version__,
        "numpy": metadata.version("numpy"),
        "scikit-learn": metadata.version("scikit-learn"),
        "device": ", ".join(keras.distribution.list_devices()) or "cpu",
        "cores": str(os.cpu_count()),
    }
