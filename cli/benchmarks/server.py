"""Runs a ctbatch for a benchmark, in a temporary home and with a champion. Measures the memory of its processes."""

import os
import secrets
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cli.benchmarks.slices import write_phantoms
from cli.benchmarks.watch.new_files import wait_until_quick
from cli.benchmarks.watch.others import descendants
from cli.errors import Unavailable, UsageError
from cli.output import say
from cli.remote.client import Client, Json
from cli.remote.find_server import Server
from cli.remote.submit import send
from cli.supervisor.background_up import serving
from cli.supervisor.roles import PROJECT, ingest_processes
from db import database, migrate
from db.database import read_scope, session_scope
from db.evaluation.promotion import promote_first
from db.registry import champions, versions
from db.registry.demo_model import DEMO_FILE
from db.settings import get_settings
from worker.engines.load import check_engine
from worker.engines.package import PackageError

MIB = 1024 * 1024
WARM_UP = 16  # slices of a warm-up job; there is one such job for each ingest process


@dataclass(frozen=True)
class Bench:
    """A running ctbatch, the package of its champion, and the process that started all others."""

    client: Client
    package: Path
    supervisor_pid: int


@contextmanager
def serve(package: Path | None) -> Iterator[Bench]:
    """Run a ctbatch in a temporary home. Its champion is `package`.

    If `package` is None, use the champion of the home that the environment names, or else the demo model.
    """
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder:
        package = package or _champion_package() or demo_package(Path(folder) / "package")
        _check_engine(package)
        use_home(Path(folder) / "home")
        make_home(package)
        with serving(get_settings(), ("--host", "127.0.0.1", "--port", "0")) as (local, process):
            if process is None:
                raise RuntimeError("a fresh home cannot have a server")
            with Client(Server(local.url, local.token, local=True)) as client:
                yield Bench(client, package, process.pid)


def make_home(package: Path) -> None:
    """Create the database of the home in use, and promote this package there.

    Wait until the disk makes new files quickly.
    """
    migrate.upgrade()
    stored = versions.store_package(package)
    with session_scope() as session:
        promote_first(session, versions.register_package(session, stored), "benchmark")
    wait_until_quick(get_settings().home)


def _check_engine(package: Path) -> None:
    """Raise UsageError if the engine of the settings cannot use the package, because jobs would then never end."""
    choice = get_settings().engine
    try:
        check_engine(package, choice)
    except PackageError as error:
        raise UsageError(
            f"CTBATCH_ENGINE is {choice}, but {error}; set another engine, or name another package with --package"
        ) from error


def send_archive(bench: Bench, archive: Path) -> Json:
    """Submit an archive as a job named after it, and return the job."""
    return send(bench.client, (archive,), archive.stem, 0, secrets.token_hex(16))


def submit(bench: Bench, archive: Path) -> Json:
    """Submit an archive with one request, to measure a submission. `send_archive` sends another request first."""
    with archive.open("rb") as file:
        fields = {"name": archive.stem, "priority": "0"}
        return bench.client.submit(fields, [(archive.name, file)], secrets.token_hex(16))


def last_view(bench: Bench, job: Json) -> Json:
    """Wait until a job has ended, and return the job as the API then shows it.

    Raises:
        Unavailable: no worker has an engine that may predict.
    """
    for view in bench.client.watch(str(job["id"])):
        job = view
        if job.get("warning"):
            raise Unavailable(job["warning"])
    return job


def warm_up(bench: Bench) -> None:
    """Submit small jobs, so that all ingest and inference processes do their one-time work, and all decoders start."""
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder:
        archives = [Path(folder) / f"warm-{number}.zip" for number in range(ingest_processes())]
        for number, archive in enumerate(archives):
            write_phantoms(archive, WARM_UP, seed=99 + number)
        for job in [send_archive(bench, archive) for archive in archives]:
            last_view(bench, job)


def seconds_between(job: Json, start: str, end: str) -> float:
    """Return the seconds between two times of a job. `start` and `end` name the fields of the job."""
    return (datetime.fromisoformat(job[end]) - datetime.fromisoformat(job[start])).total_seconds()


def our_environment() -> dict[str, str]:
    """Return the environment for a process that runs our own code."""
    return os.environ | {"PYTHONPATH": str(PROJECT)}


def use_home(home: Path, database_url: str | None = None) -> None:
    """Use this home from now on, with a private broker. Without `database_url`, use SQLite.

    Remove the environment variables that name another database or broker.
    """
    for name in ("DATABASE_URL", "CTBATCH_DATABASE_URL", "CELERY_BROKER_URL", "CTBATCH_BROKER_URL"):
        os.environ.pop(name, None)
    os.environ["CTBATCH_HOME"] = str(home)
    if database_url:
        os.environ["DATABASE_URL"] = database_url
    get_settings.cache_clear()
    database.use(get_settings())


def _champion_package() -> Path | None:
    """Return the package of the champion in the home that the environment names, or None."""
    if not (get_settings().home / "ctbatch.db").exists():
        return None
    with read_scope() as session:
        version = champions.champion(session)
    return versions.package_folder(version) if version else None


def demo_package(folder: Path) -> Path:
    """Unpack the demo model of ctbatch into `folder`, and return `folder`."""
    say("there is no champion; using the demo model")
    with tarfile.open(DEMO_FILE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def peak_memory(root: int) -> dict[str, int]:
    """Return the peak resident memory, in MiB, of `root` and all processes below it, by role and process id."""
    peaks = {}
    for pid in [root, *descendants(root)]:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        role = next((v.removeprefix(b"CTBATCH_ROLE=").decode() for v in environ if v.startswith(b"CTBATCH_ROLE=")), "")
        peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
        peaks[f"{role or command.split(' ')[0].rpartition('/')[2]} {pid}"] = peak * 1024 // MIB
    return peaks
