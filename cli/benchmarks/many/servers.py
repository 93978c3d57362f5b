"""Starts PostgreSQL, Redis and an S3 server for benchmarks, each on a simulated host or on this machine."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from cli.benchmarks.many.hosts import Host
from cli.errors import Unavailable, UsageError
from cli.supervisor.private_broker import find_binary

START_SECONDS = 60
POSTGRES_PORT, REDIS_PORT, S3_PORT = 5432, 6379, 5000
BUCKET = "ctbatch"


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    log: Path,
    is_up: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Start a process and wait until `is_up` returns True. Stop the process at the end of the block.

    `name` names the process in errors. `log` gets the output of the process. Raises Unavailable if the process does not
    come up.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)  # noqa: S603  servers that we name
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"{name} did not start; its log ends: {log.read_text()[-500:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(host: Host, port: int) -> bool:
    """Return whether something listens on a port of the host. The check itself runs on that host."""
    code = f"import socket; socket.create_connection(('{host.address}', {port}), 1).close()"
    command = host.command([sys.executable, "-c", code])
    return subprocess.run(command, check=False, capture_output=True).returncode == 0  # noqa: S603  the command is our own


def _postgres_programs() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).parent
    raise UsageError("PostgreSQL's server is not installed (Debian: postgresql); name a database with --database")


@contextmanager
def postgres(folder: Path, host: Host | None = None) -> Iterator[str]:
    """Run a PostgreSQL server with an empty database, and yield its URL. Commits are written to the disk.

    Without a host, the server listens on a Unix socket in the folder.
    """
    programs, data = _postgres_programs(), folder / "postgres"
    as_nobody: list[str] = []
    data.mkdir()
    if os.getuid() == 0:  # the server refuses to run as root
        as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(data, "nobody", "nogroup")
        for parent in (folder, *folder.parents[:1]):
            parent.chmod(parent.stat().st_mode | 0o011)
    options = ["-A", "trust", "-U", "ctbatch", "-E", "UTF8", "--locale=C"]
    subprocess.run(  # noqa: S603  the command is our own
        [*as_nobody, programs / "initdb", "-D", data / "data", *options], check=True, capture_output=True, cwd="/"
    )
    with (data / "data/pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 trust\n")
    words = [*as_nobody, programs / "postgres", "-D", data / "data", "-k", data, "-p", POSTGRES_PORT]
    words += ["-c", f"listen_addresses={host.address if host else ''}", "-c", "max_connections=200"]
    words += ["-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB"]
    command = host.command(words) if host else [*map(str, words)]
    up = [programs / "pg_isready", "-q", "-h", host.address if host else data, "-p", POSTGRES_PORT, "-U", "ctbatch"]
    up_command = host.command(up) if host else [*map(str, up)]

    def is_up() -> bool:
        return subprocess.run(up_command, check=False).returncode == 0  # noqa: S603  the command is our own

    with running("PostgreSQL", command, folder / "postgres.log", is_up):
        if host:
            yield f"postgresql://ctbatch@{host.address}:{POSTGRES_PORT}/postgres"
        else:
            yield f"postgresql://ctbatch@/postgres?host={data}&port={POSTGRES_PORT}"


@contextmanager
def redis(folder: Path, host: Host) -> Iterator[str]:
    """Run Redis or Valkey on a host, with the settings of docker-compose.yml, and yield its URL."""
    words = [find_binary(), "--bind", host.address, "--port", REDIS_PORT, "--dir", folder, "--protected-mode", "no"]
    words += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"]
    with running("Redis", host.command(words), folder / "redis.log", lambda: listens(host, REDIS_PORT)):
        yield f"redis://{host.address}:{REDIS_PORT}/0"


@contextmanager
def s3(folder: Path, host: Host) -> Iterator[dict[str, str]]:
    """Run moto's S3 server on a host, and yield the environment for the processes that use it.

    Raises:
        UsageError: moto is not installed.
    """
    if find_spec("moto") is None:
        raise UsageError("moto is not installed; run `pip install 'ctbatch[bench]'`")
    words = [sys.executable, "-m", "moto.server", "-H", host.address, "-p", S3_PORT]
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host.address}:{S3_PORT}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "CTBATCH_STORAGE_URL": f"s3://{BUCKET}/files",
    }
    with running("moto", host.command(words), folder / "s3.log", lambda: listens(host, S3_PORT)):
        yield environment
