"""Runs one peer: waits until it is ready, measures it, and stops it and all processes that it started."""

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from cli.benchmarks.peers.catalogue import Peer
from cli.benchmarks.peers.exchange import DONE, GO, READY, Job
from cli.benchmarks.watch.others import Disturbance, descendants, watched
from cli.errors import Unavailable
from cli.supervisor.private_broker import answers, find_binary
from cli.supervisor.roles import PROJECT
from worker.linux_process import die_with_parent

END_SECONDS = 60.0
MOST_SECONDS = 1800.0  # a peer that runs longer is stopped
LOG_LINES = 15  # the last lines of the log, which are shown if a peer fails
QUIET = {  # no peer sends usage statistics to its makers
    "BENTOML_DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(PROJECT),
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Timed:
    """The seconds that a peer took to get ready, and the seconds from the first byte read to the last row written."""

    start_seconds: float
    seconds: float
    disturbance: Disturbance


def run_peer(peer: Peer, package: Path, archive: Path, folder: Path) -> tuple[Timed, Path]:
    """Run a peer on an archive. Return its times, and the database that it wrote. All its files go into `folder`.

    Raises:
        Unavailable: the peer is not installed, or it ended before it was done.
    """
    if not peer.python.exists():
        raise Unavailable(f"the peer {peer.name} is not installed; `make peer-{peer.environment}` installs it")
    folder.mkdir()
    with ExitStack() as stack:
        broker = stack.enter_context(_broker()) if peer.needs_broker else ""
        job = Job(package.resolve(), peer.engine, archive, folder / "rows.db", broker)
        began = time.monotonic()
        process = stack.enter_context(_started(peer, job, folder / "log"))
        _wait_for(READY, process, folder / "log", peer)
        start_seconds = time.monotonic() - began
        with watched() as disturbance:
            began = time.monotonic()
            _stdin(process).write(f"{GO}\n")
            _stdin(process).flush()
            _wait_for(DONE, process, folder / "log", peer)
            seconds = time.monotonic() - began
    return Timed(start_seconds, seconds, disturbance), job.database


@contextmanager
def _started(peer: Peer, job: Job, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the peer's module during the block.

    At the end, let the peer stop by itself. Then kill those of its processes that still run.
    """
    home = {"HOME": str(log.parent), "BENTOML_HOME": str(log.parent / "bentoml")}
    with log.open("w") as output:
        process = subprocess.Popen(  # noqa: S603  our own modules
            [str(peer.python), "-P", "-m", peer.module, *job.arguments],
            env=os.environ | QUIET | home,
            cwd=log.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
        )
    too_long = threading.Timer(MOST_SECONDS, process.terminate)
    too_long.daemon = True
    too_long.start()
    try:
        yield process
    finally:
        too_long.cancel()
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Wait until a finished peer has ended. If it does not end, kill it. Also kill what it started."""
    left = [os.pidfd_open(pid) for pid in descendants(process.pid) if Path(f"/proc/{pid}").exists()]
    _stdin(process).close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for handle in left:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], END_SECONDS)  # the handle becomes readable when the process has ended
        os.close(handle)


def _wait_for(word: str, process: subprocess.Popen[str], log: Path, peer: Peer) -> None:
    """Wait until the peer prints the line `word`. Raises Unavailable if the peer ends before that."""
    output: IO[str] | None = process.stdout
    for line in output or ():
        if line.strip() == word:
            return
    tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    raise Unavailable(f"the peer {peer.name} failed; the end of its log:\n" + "\n".join(tail))


def _stdin(process: subprocess.Popen[str]) -> IO[str]:
    if process.stdin is None:
        raise TypeError("not a pipe")
    return process.stdin


@contextmanager
def _broker() -> Iterator[str]:
    """Run a broker on a Unix socket, and yield its URL."""
    with tempfile.TemporaryDirectory(prefix="ctbatch-peer-") as name:
        place = Path(name) / "broker.sock"
        options: Sequence[str] = ("--port", "0", "--unixsocket", str(place), "--save", "")
        process = subprocess.Popen(  # noqa: S603  the broker's own program
            [str(find_binary()), *options],
            cwd=name,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        try:
            while not answers(place):
                time.sleep(0.05)
            yield f"redis+socket://{place}"
        finally:
            process.terminate()
            process.wait()
