"""A ctbatch of its own for a benchmark: a temporary home, a champion, the peak memory of each of its processes."""

import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.output import say
from cli.remote.client import Client, Json
from cli.remote.find_server import Server
from cli.supervisor.background_up import serving
from db import database, migrate
from db.database import read_scope, session_scope
from db.registry import champions, versions
from db.registry.demo_model import DEMO_FILE
from db.settings import get_settings

MIB = 1024 * 1024


@dataclass(frozen=True)
class Bench:
    """A running ctbatch, the package that its champion was made of, and the process that holds it all."""

    client: Client
    package: Path
    supervisor_pid: int


@contextmanager
def serve(package: Path | None) -> Iterator[Bench]:
    """Run a ctbatch in a temporary home, with this package (or the one at hand) as champion."""
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder:
        package = package or _package_at_hand() or _demo_package(Path(folder) / "package")
        use_home(Path(folder) / "home")
        migrate.upgrade()
        stored = versions.store_package(package)
        with session_scope() as s:
            champions.promote(s, versions.register_package(s, stored), None, "benchmark")
        with serving(get_settings(), "127.0.0.1", 0) as (local, process):
            if process is None:
                raise RuntimeError("a fresh home has no server yet")
            with Client(Server(local.url, local.token, local=True)) as client:
                yield Bench(client, package, process.pid)


def last_view(client: Client, job: Json) -> Json:
    """Wait for a job's end; the job as it is then."""
    *_, last = client.watch(str(job["id"]))
    return last


def use_home(home: Path) -> None:
    """Work in this home from now on, on SQLite and a private broker whatever the environment says."""
    for name in ("DATABASE_URL", "CTBATCH_DATABASE_URL", "CELERY_BROKER_URL", "CTBATCH_BROKER_URL"):
        os.environ.pop(name, None)
    os.environ["CTBATCH_HOME"] = str(home)
    get_settings.cache_clear()
    database.use(get_settings())


def _package_at_hand() -> Path | None:
    """The champion's package in the home that the environment names, if there is one."""
    if not (get_settings().home / "ctbatch.db").exists():
        return None
    with read_scope() as s:
        version = champions.champion(s)
    return versions.package_folder(version) if version else None


def _demo_package(folder: Path) -> Path:
    """Unpack the demo model that ships."""
    say("there is no model version at hand: taking the demo model")
    with tarfile.open(DEMO_FILE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def peak_memory(root: int) -> dict[str, int]:
    """The peak resident memory in MiB of each process below `root` and of itself, by role and process id."""
    found = {}
    for pid in [root, *_descendants(root)]:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        role = next((e.removeprefix(b"CTBATCH_ROLE=").decode() for e in environ if e.startswith(b"CTBATCH_ROLE=")), "")
        peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")), 0)
        found[f"{role or command.split(' ')[0].rpartition('/')[2]} {pid}"] = peak * 1024 // MIB
    return found


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found
