"""Runs `ctbatch up` in the background, for commands that need a server of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cli.errors import Unavailable
from cli.output import progress_bar, say
from cli.polling import poll
from cli.remote.find_server import LocalServer, read_local
from cli.supervisor.roles import PROJECT
from db.settings import Settings
from worker.linux_process import die_with_parent

LOG_LINES = 20  # the last lines of the log, which are shown if the start fails
POLL_SECONDS = 0.1


@contextmanager
def serving(settings: Settings, options: Sequence[str]) -> Iterator[tuple[LocalServer, subprocess.Popen[bytes] | None]]:
    """Yield the server of this home, and None. If none runs, start one, and yield it with its process.

    Stop a started server at the end of the block. `options`: the options of `ctbatch up`.
    """
    if running := read_local(settings.run_dir):
        say(f"using the ctbatch at {running.url}")
        yield running, None
        return
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = settings.home / "up.log"
    say(f"starting everything in {settings.home} (log: {log})")
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 our own command
            [sys.executable, "-P", "-m", "cli", "up", *options],
            env=os.environ | {"PYTHONPATH": str(PROJECT), "CTBATCH_HOME": str(settings.home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the caller, which then stops `up`
            preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
        )
    try:
        yield _wait_until_ready(settings, process, log), process
    finally:
        say("stopping")
        stop_process(process)


def _wait_until_ready(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> LocalServer:
    with progress_bar("starting", 1.0) as update:
        for local in poll(lambda: read_local(settings.run_dir), POLL_SECONDS):
            if local is not None and local.pid == process.pid:
                update(1.0, f"ready at {local.url}")
                return local
            if process.poll() is not None:
                tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                raise Unavailable(f"ctbatch did not start; the end of {log}:\n" + "\n".join(tail))
    raise AssertionError("poll goes on for ever")


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Stop `up` and wait until it has ended. Pass on each Ctrl-C, so that a second one stops it immediately."""
    process.terminate()
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
