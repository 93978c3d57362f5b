"""What Keras computes with here, and what differs between its backends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata

import keras


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 as such: on GPUs that can, TensorFlow would round it to TF32 (10 bits)."""
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
    """Raise MemoryError where TensorFlow raises an error of its own: callers need not know the backend."""
    if keras.backend.backend() != "tensorflow":
        yield
        return
    from tensorflow.errors import ResourceExhaustedError

    try:
        yield
    except ResourceExhaustedError as error:
        raise MemoryError(str(error)) from error


def environment() -> dict[str, str]:
    """Return the versions and devices that a run's metrics depend on."""
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
