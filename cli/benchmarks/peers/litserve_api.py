"""Runs the peer LitServe, with dynamic batching."""

import base64
import os
import sys
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from cli.benchmarks.peers import over_http
from cli.benchmarks.peers.network import Network, prepare


class Classifier(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no types here
    """Classifies a slice, sent as base64."""

    def setup(self, device: str) -> None:
        """Load the network."""
        self.network = Network(Path(os.environ["PEER_PACKAGE"]), os.environ["PEER_ENGINE"])

    def decode_request(self, request: dict[str, str]) -> NDArray[np.uint8]:
        """Return the slice of a request."""
        return prepare(base64.b64decode(request["file"]))

    def predict(self, slices: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Return an answer for each slice of a batch."""
        return self.network.answers(np.asarray(slices))

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Return the answer unchanged."""
        return answer


def _serve(port: int) -> None:
    api = Classifier(max_batch_size=over_http.BATCH, batch_timeout=over_http.WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", timeout=300)
    server.run(host=over_http.HOST, port=port, generate_client_file=False)


def _command(port: int) -> list[str]:
    return [sys.executable, "-P", "-m", "cli.benchmarks.peers.litserve_api", "serve", str(port)]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(int(sys.argv[2]))
    else:
        over_http.run(_command, "/predict", lambda response: response, "file")
