"""Runs the network in Keras, on any backend (`KERAS_BACKEND`), for GPUs and as the reference for other engines."""

import os
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.registry.manifest import KERAS_FILE
from worker.engines.devices import has_bfloat16
from worker.engines.interface import Scores

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras

# These stay in float32: normalisation of pixels, the last layer, and the distance, whose limit was set in float32.
EXACT_LAYERS = ("imagenet_mean", "output", "pooled_features", "scaled_features", "components", "within", "along")
BATCH_GPU, BATCH_CPU = 256, 32
FIRST_WITH_BFLOAT16 = (8, 0)  # the lowest compute capability with bfloat16


class KerasEngine:
    """Runs a package's `model.keras` in float32, or with `half` in mixed precision. On a GPU, compiles the network."""

    def __init__(self, folder: Path, *, half: bool = False) -> None:
        gpu = on_gpu()
        self.model: Any = keras.models.load_model(folder / KERAS_FILE, compile=False, safe_mode=True)
        if half:
            self.model = in_mixed_precision(self.model)
        self.model.compile(jit_compile=gpu)
        self.batch_size = BATCH_GPU if gpu else BATCH_CPU
        self.proof_sizes: tuple[int, ...] = (BATCH_CPU, 1)  # other numbers are padded to a whole batch
        self._one_at_a_time = Lock()
        self.precision = "bf16" if half else "f32"
        self.name = f"keras-{backend()}-{self.precision}"

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Return the scores of n ≥ 1 slices, uint8[n, 224, 224].

        Small batches are padded, so that Keras traces the network only once.
        """
        with self._one_at_a_time:
            parts = [self._batch(slices[i : i + self.batch_size]) for i in range(0, len(slices), self.batch_size)]
        return Scores.join(parts)

    def _batch(self, slices: NDArray[np.uint8]) -> Scores:
        count = len(slices)
        size = self.batch_size if count > 1 else 1
        full = np.zeros((size, *slices.shape[1:], 1), np.uint8)
        full[:count] = slices[..., None]
        outputs = self.model.predict_on_batch(full)
        scores = {name: np.asarray(values, np.float32)[:count] for name, values in outputs.items()}
        return Scores(scores["logit"], scores["cam"], scores.get("distance"))


def backend() -> str:
    """Return the name of Keras's backend."""
    return str(keras.backend.backend())


def on_gpu() -> bool:
    """Return whether the backend computes on a GPU."""
    return any(name.startswith(("gpu", "cuda")) for name in map(str.lower, keras.distribution.list_devices()))


def has_fast_bfloat16() -> bool:
    """Return whether the device that the backend uses has bfloat16: this processor, or all of the GPUs.

    NVIDIA's GPUs have bfloat16 from compute capability 8.0 on (A100). Older GPUs, such as T4 and V100, are slow in
    bfloat16 or refuse it. The capability is known only with the backend TensorFlow.
    """
    if not on_gpu():
        return has_bfloat16()
    if backend() != "tensorflow":
        return True
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    return all(one.get("compute_capability", (0, 0)) >= FIRST_WITH_BFLOAT16 for one in details)


def config_in(policy: Any, layer: Any) -> Any:
    """Return the configuration of a layer for a copy with another dtype policy. Exact layers keep float32."""
    config = layer.get_config()
    is_exact = layer.name in EXACT_LAYERS or layer.name.startswith("mean_")  # the means of the pooled features
    if isinstance(layer, keras.layers.Layer) and not is_exact:
        config["dtype"] = policy
    return config


def in_mixed_precision(model: Any) -> Any:
    """Return the same network with bfloat16 activations and float32 weights. The distance stays in float32."""
    policy = keras.DTypePolicy("mixed_bfloat16")

    def clone(layer: Any) -> Any:
        return layer.__class__.from_config(config_in(policy, layer))

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy
