"""Runs a peer's server on this machine, sends it the slices of an archive, many at a time, and stops the server."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from cli.benchmarks.peers.exchange import Job, done, wait_for_go, write_rows

HOST = "127.0.0.1"
AT_ONCE = 64  # requests at the same time; more than a batch holds, so that batches can be full
BATCH, WAIT_SECONDS = 32, 0.02  # the largest batch of a server, and how long the server waits for a batch to fill
START_SECONDS = 180.0
Answer = dict[str, Any]


def run(command: Callable[[int], Sequence[str]], path: str, read: Callable[[Any], Answer], field: str) -> None:
    """Run a server on a free port, and post each slice to `path` as base64 in the JSON field `field`.

    `command` returns the server's command line for a port. `read` takes the JSON of a response and returns the answer
    for the slice. If the field's name ends in `[]`, the field holds a list of one slice.
    """
    job = Job.of_arguments()
    port = _free_port()
    with _server(command(port), {"PEER_PACKAGE": str(job.package), "PEER_ENGINE": job.engine}):
        _wait_until(port, lambda file: read(_post(port, path, field, file)), next(iter(job.slices()))[1])
        wait_for_go()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            names, files = zip(*job.slices(), strict=True)
            answers = pool.map(lambda file: read(_post(port, path, field, file)), files)
            write_rows(job.database, zip(names, answers, strict=True))
        done()


_of_thread = threading.local()


def _post(port: int, path: str, field: str, file: bytes) -> Any:
    """Post a slice over the connection of this thread, and return the JSON of the response."""
    if not hasattr(_of_thread, "connection"):
        _of_thread.connection = http.client.HTTPConnection(HOST, port, timeout=300)
    text = base64.b64encode(file).decode()
    body = json.dumps({field.removesuffix("[]"): [text] if field.endswith("[]") else text})
    _of_thread.connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = _of_thread.connection.getresponse()
    content = response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {content[:500].decode(errors='replace')}")
    return json.loads(content)


@contextmanager
def _server(command: Sequence[str], more: Mapping[str, str]) -> Iterator[None]:
    """Run a server during the block, with the additional environment variables `more`. Its output goes to stderr."""
    server = subprocess.Popen(command, env=os.environ | more, stdout=sys.stderr)  # noqa: S603  a peer's own command
    try:
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait_until(port: int, answer: Callable[[bytes], Answer], file: bytes) -> None:
    """Post the slice `file` again and again until the server answers. Raises the last error if this takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            answer(file)
        except (OSError, http.client.HTTPException, RuntimeError):
            if time.monotonic() > deadline:
                raise
            _of_thread.__dict__.clear()
            time.sleep(0.2)
        else:
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
