"""ImageNet's weights are downloaded and cached; a silent server fails, and a cancel takes effect meanwhile."""

import hashlib
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for Keras's files."""
    import keras

    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    monkeypatch.setattr("db.background.HEARTBEAT_SECONDS", 0.05)
    return tmp_path


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/weights.h5"


def test_silent_server_fails_with_advice(silent_server: str, cache: Path) -> None:
    from training.errors import RunFailed
    from training.network.imagenet import imagenet_weights

    heartbeats: list[bool] = []
    with pytest.raises(RunFailed, match="--from FILE"):
        imagenet_weights(lambda: heartbeats.append(True), origin=silent_server, silent_seconds=0.5)
    assert heartbeats, "the run would look dead"
    assert socket.getdefaulttimeout() is None


def test_cancel_takes_effect_while_the_server_is_silent(silent_server: str) -> None:
    from training.network.imagenet import imagenet_weights

    def cancelled() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        imagenet_weights(cancelled, origin=silent_server, silent_seconds=600)


def test_download_is_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.network import imagenet

    data = b"weights" * 1000

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    monkeypatch.setattr(imagenet, "MD5", hashlib.md5(data, usedforsecurity=False).hexdigest())
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.handle_request, daemon=True).start()
        origin = f"http://127.0.0.1:{server.server_port}/weights.h5"
        first = imagenet.imagenet_weights(lambda: None, origin=origin)
    assert first.read_bytes() == data
    assert first.is_relative_to(cache)
    assert imagenet.imagenet_weights(lambda: None, origin=origin) == first, "from the cache: the server is gone"


def test_file_is_the_one_that_keras_uses() -> None:
    from keras.src.applications import resnet

    from training.network.imagenet import FILE, MD5, ORIGIN

    assert ORIGIN == resnet.BASE_WEIGHTS_PATH + FILE
    assert resnet.WEIGHTS_HASHES["resnet50"][1] == MD5
