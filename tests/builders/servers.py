"""Real PostgreSQL and Redis servers of a test, which can be stopped and started again with what they hold."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import create_engine

START_SECONDS = 60


def free_port() -> int:
    """A TCP port of the loopback address that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_binaries() -> Path | None:
    """The folder of PostgreSQL's server programs, or None if they are not installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


class Server:
    """A server process on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.user: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[object]:
        """The command line."""
        raise NotImplementedError

    def answer(self) -> None:
        """Raise an exception unless the server answers."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the process and wait until it answers."""
        log = (self.folder / "server.log").open("ab")
        command = [str(word) for word in self.command()]
        self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, **self.user)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self.answer()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop the process. Open connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None


class PostgresServer(Server):
    """A PostgreSQL server in a folder that every user may enter; `url` lacks a database's name."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        super().__init__(folder)
        self.url = f"postgresql://ctbatch@127.0.0.1:{self.port}/"
        self._binaries = binaries
        if os.getuid() == 0:  # the server refuses to run as root
            self.user = {"user": "nobody", "group": "nogroup"}
            shutil.chown(folder, "nobody", "nogroup")
        options = ["-A", "trust", "-U", "ctbatch", "-E", "UTF8", "--no-sync", "--locale=C"]
        initdb = [binaries / "initdb", "-D", folder / "data", *options]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **self.user)

    def command(self) -> list[object]:
        options = ["-k", self.folder, "-h", "127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"]
        return [self._binaries / "postgres", "-D", self.folder / "data", "-p", self.port, *options]

    def answer(self) -> None:
        engine = create_engine(self.url.replace("postgresql://", "postgresql+psycopg://") + "postgres")
        try:
            engine.connect().close()
        finally:
            engine.dispose()  # an open connection would hold up the server's stop


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server that runs. Skip the test if it is not installed."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server binaries are not installed (Debian: postgresql)")
    # Not in pytest's own folder: each session of pytest that starts closes that to all users but its own.
    with tempfile.TemporaryDirectory(prefix="ctbatch-postgres-") as name:
        server = PostgresServer(Path(name), binaries)
        server.start()
        yield server
        server.stop()


class RedisServer(Server):
    """A Redis server that keeps what it holds when it is stopped in order."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[object]:
        return ["redis-server", "--port", self.port, "--dir", self.folder, "--save", "60", "1", "--daemonize", "no"]

    def answer(self) -> None:
        redis.Redis.from_url(self.url).ping()
