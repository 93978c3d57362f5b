"""Runs the network in OpenVINO on the processor, in int8, bfloat16 or float32."""

from collections import deque
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from worker.engines.devices import has_bfloat16
from worker.engines.interface import Scores
from worker.engines.package import PackageError
from worker.engines.processor import permitted_cores, usable_cores

MOST_PROVEN = 256  # the most slices of a proof; more take long on many cores and show nothing new
DEFAULT_REQUEST = 4  # slices that a core computes at a time; 8 are not quicker, and take 50 MB more on two cores


class OpenVinoEngine:
    """One compiled network. `precision` is f32, bf16 or int8.

    Without tuning, each core works on different slices, as a stream with one thread. If several cores share the layers
    of one request, they wait for each other at every layer. If other work delays one of the cores, all of them wait.
    """

    def __init__(
        self,
        model: Path,
        precision: str,
        threads: int | None,
        *,
        streams: int | None = None,
        request: int = DEFAULT_REQUEST,
    ) -> None:
        """Compile the network of a file. Raises PackageError for weights that are not finite numbers.

        `streams`: how many requests are computed in parallel, by all threads together. None means one for each thread.
        `request`: how many slices a stream computes at a time.
        """
        self.name, self.precision = f"openvino-{precision}", precision
        cores = threads or usable_cores()
        self._streams, self._request = streams or cores, request
        self.batch_size = 16 * request * self._streams
        self.proof_sizes: tuple[int, ...] = (min(max(request * self._streams, 32), MOST_PROVEN), 1)
        options: dict[str, object] = {
            "NUM_STREAMS": str(self._streams),
            "INFERENCE_NUM_THREADS": cores,
            "INFERENCE_PRECISION_HINT": "f32" if precision == "f32" or not has_bfloat16() else "bf16",
            # OpenVINO 2026.4 pins the threads of every process to the first cores. Workers that each have some of the
            # cores would then all compute on the first cores
            # (findings/openvino-processes-of-one-thread-share-a-core.sh).
            "ENABLE_CPU_PINNING": cores == permitted_cores(),
        }
        core = ov.Core()
        network = core.read_model(str(model))
        _check_weights(network)
        compiled = core.compile_model(network, "CPU", options)
        self._has_distance = any("distance" in output.names for output in compiled.outputs)
        # Twice as many requests as streams, so that a stream that has finished begins the next request at once.
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(2 * self._streams):
            self._idle.put(compiled.create_infer_request())

    def predict(self, slices: NDArray[np.uint8]) -> Scores:
        """Return the scores of n ≥ 1 slices, uint8[n, 224, 224]."""
        count = len(slices)
        distance = np.empty(count, np.float32) if self._has_distance else None
        scores = Scores(np.empty(count, np.float32), np.empty((count, 7, 7), np.float32), distance)
        pixels = np.ascontiguousarray(slices)[..., None]
        share = min(self._request, -(-count // self._streams))  # divides a few slices between all streams
        running: deque[tuple[Any, slice]] = deque()
        try:
            for start in range(0, count, share):
                request = self._free_request(running, scores)
                part = slice(start, start + share)
                running.append((request, part))
                request.start_async({"slices": pixels[part]}, share_inputs=True)
            while running:
                self._finish(*running.popleft(), scores)
        finally:
            for request, _ in running:  # if a request failed, wait for the others, because they read these pixels
                with suppress(RuntimeError):
                    request.wait()
                self._idle.put(request)
        return scores

    def _free_request(self, running: deque[tuple[Any, slice]], scores: Scores) -> Any:
        """Return a free request. If there is none, finish one of `running`, or wait until another thread frees one."""
        while True:
            try:
                return self._idle.get(block=not running)
            except Empty:
                self._finish(*running.popleft(), scores)

    def _finish(self, request: Any, part: slice, scores: Scores) -> None:
        """Wait for a request, and copy its answers into `scores`. Raises RuntimeError if the request failed."""
        try:
            request.wait()
            for name, values in (("logit", scores.logit), ("cam", scores.cam), ("distance", scores.distance)):
                if values is not None:
                    values[part] = request.get_tensor(name).data
        finally:
            self._idle.put(request)


def _check_weights(network: ov.Model) -> None:
    """Raise PackageError if a weight is infinite or not a number.

    The scores would not show this, because OpenVINO's ReLU returns 0 for NaN
    (findings/openvino-relu-of-nan-is-zero.sh).
    """
    for node in network.get_ops():
        is_weight = isinstance(node, ov.op.Constant) and node.get_element_type().is_real()
        if is_weight and not np.isfinite(node.data).all():
            raise PackageError("a weight of the network is not a finite number")
