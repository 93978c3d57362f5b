"""Runs the peer BentoML, with adaptive batching."""

import base64
import os
import sys
from pathlib import Path
from typing import Any

import bentoml
import numpy as np

from cli.benchmarks.peers import over_http
from cli.benchmarks.peers.network import Network, prepare


@bentoml.service(traffic={"timeout": 300})
class Classifier:
    """Classifies slices, sent as base64."""

    def __init__(self) -> None:
        self.network = Network(Path(os.environ["PEER_PACKAGE"]), os.environ["PEER_ENGINE"])

    @bentoml.api(batchable=True, max_batch_size=over_http.BATCH, max_latency_ms=60_000)
    def classify(self, files: list[str]) -> list[dict[str, Any]]:
        """Return an answer for each file of a batch."""
        return self.network.answers(np.stack([prepare(base64.b64decode(file)) for file in files]))


def _command(port: int) -> list[str]:
    service = "cli.benchmarks.peers.bentoml_service:Classifier"
    return [sys.executable, "-P", "-m", "bentoml", "serve", service, "--host", over_http.HOST, "--port", str(port)]


if __name__ == "__main__":
    over_http.run(_command, "/classify", lambda response: response[0], "files[]")
