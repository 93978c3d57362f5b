"""An engine without a network, for tests and fault injection. It computes scores from hashes of the pixels.

It is used only with `CTBATCH_ENGINE=fake`. Each of its predictions names the engine `fake`.
"""

import hashlib
import os
import signal
import time
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from worker.engines.interface import Scores

KILLS = bytes(range(16))  # a slice that begins with these pixels kills the process
HANGS = bytes(range(16, 32))  # a slice that begins with these pixels makes the process hang


def expected_logit(pixels: NDArray[np.uint8]) -> float:
    """Return a score from -4 to 4 for a slice, uint8[224, 224]. It depends on the SHA-256 of every fourth row."""
    digest = hashlib.sha256(pixels[::4].tobytes()).digest()
    return float(np.float32(int.from_bytes(digest[:4], "big") / 2**32 * 8 - 4))


class FakeEngine:
    """Computes scores from hashes. `CTBATCH_FAKE_SECONDS`: the seconds that a slice takes (default 0)."""

    name = precision = "fake"
    batch_size = 32
    proof_sizes: tuple[int, ...] = ()

    def __init__(self) -> None:
        self._one_at_a_time = Lock()  # the engine acts like one device, which computes one call at a time
        self._seconds = float(os.environ.get("CTBATCH_FAKE_SECONDS", "0"))

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Return the scores of slices, uint8[n, 224, 224]."""
        for pixels in slices:
            start = pixels.reshape(-1)[:16].tobytes()
            if start == KILLS:
                os.kill(os.getpid(), signal.SIGKILL)
            if start == HANGS:
                time.sleep(3600)
        with self._one_at_a_time:
            time.sleep(self._seconds * len(slices))
        logit = np.array([expected_logit(pixels) for pixels in slices], np.float32)
        cam = slices[:, ::32, ::32].astype(np.float32) / np.float32(255)
        return Scores(logit, cam)
