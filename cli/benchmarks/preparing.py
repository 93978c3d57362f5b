"""Measures the processor time of ingest: from an archive's bytes to chunks in storage and rows in the database."""

import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from cli.benchmarks.server import demo_package, make_home, use_home
from cli.benchmarks.slices import deal, pack, slice_files, write_scans
from cli.output import print_report, say
from db.access.accounts import local_user
from db.database import read_scope, session_scope
from db.ledger import jobs
from db.models import Outcome, Slice
from db.settings import MIB
from db.storage import storage
from worker.engines.processor import read_processor
from worker.imaging.archives.archive import Limits, inspect_archive
from worker.jobs import ingest

KINDS = {"PNG": (400, 300), "JPEG": (512, 512)}  # format, and width and height in pixels
WARM_UP = 32  # slices of a first job, which starts the decoders


@dataclass(frozen=True)
class Cost:
    """The processor time of a job, in seconds, and how many of its slices were prepared.

    `receive`: the time to hash, store and check the archive. `ingest`: the time of the ingest process itself.
    `decoders`: the time of its decoders.
    """

    receive: float
    ingest: float
    decoders: float
    prepared: int

    @property
    def total(self) -> float:
        return self.receive + self.ingest + self.decoders

    def per_slice(self) -> dict[str, float]:
        """Return the core-milliseconds that a slice takes, for each part and in total."""
        parts = {"receive": self.receive, "ingest": self.ingest, "decoders": self.decoders, "total": self.total}
        return {name: round(1000 * seconds / self.prepared, 3) for name, seconds in parts.items()}


def run(path: Path | None, slices: int, rounds: int, as_json: bool) -> None:
    """Print the core-milliseconds that a slice takes in the cheapest round, for each part.

    Measure the slices of `path`. If `path` is None, measure synthetic slices of each kind of file.
    """
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as name:
        folder = Path(name)
        package = demo_package(folder / "package")
        use_home(folder / "home")
        make_home(package)
        report: dict[str, Any] = {"processor": read_processor().line, "rounds": rounds}
        for kind, archives in _archives(path, slices, rounds, folder).items():
            costs = []
            for number, archive in enumerate(archives):
                say(f"{kind}: round {number} of {rounds}" if number else f"{kind}: warming up")
                costs.append(_prepare(archive))
            best = min(costs[1:], key=lambda cost: cost.total)
            report[kind] = {"slices": best.prepared, "core_ms_a_slice": best.per_slice()}
    print_report(report, as_json)


def _archives(path: Path | None, slices: int, rounds: int, folder: Path) -> dict[str, list[Path]]:
    """Return an archive for the warm-up and one for each round, by kind of file. No slice is in two archives."""
    if path is not None:
        parts = deal(slice_files(path), rounds + 1, slices)
        archives = [folder / f"{number}.zip" for number in range(rounds + 1)]
        for archive, files in zip(archives, parts, strict=True):
            pack(archive, path, files)
        return {path.name: archives}
    made: dict[str, list[Path]] = {}
    for kind, size in KINDS.items():
        for number in range(rounds + 1):
            archive = folder / f"{kind} {number}.zip"
            write_scans(archive, slices if number else WARM_UP, kind, size, seed=number)
            made.setdefault(f"{kind} of {size[0]} × {size[1]}", []).append(archive)
    return made


def _prepare(archive: Path) -> Cost:
    """Receive an archive as the web does, and prepare its slices as an ingest worker does, all in this process."""
    began = _own_seconds()
    with storage().receive() as receiver, archive.open("rb") as file:
        while part := file.read(MIB):
            receiver.write(part)
        checked = inspect_archive(receiver.path, archive.name, Limits())
        received = receiver.publish()
    with session_scope() as s:
        owner = local_user(s)
        submitted = jobs.ReceivedFile(archive.name, received.sha256, received.size, checked.kind, checked.entries)
        job, _ = jobs.create_job(s, owner=owner, files=[submitted])
    pool = ingest.decoders(owner.id)
    received_at, decoded_before = _own_seconds(), pool.cpu_seconds
    ingest.unpack_next("benchmark")
    prepared_at = _own_seconds()
    with read_scope() as s:
        prepared = select(func.count()).where(Slice.job_id == job.id, Slice.state == Outcome.OPEN)
        count = s.scalar(prepared) or 0
    return Cost(received_at - began, prepared_at - received_at, pool.cpu_seconds - decoded_before, count)


def _own_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
