"""Measures how the time for a slice, the memory of a process and the time of a query grow with the slices of a job."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, get_args

from cli.benchmarks.many.copies import copy_job
from cli.benchmarks.many.rows import write_package
from cli.benchmarks.server import Bench, last_view, send_archive, serve, warm_up
from cli.benchmarks.slices import write_phantoms, write_tiny
from cli.benchmarks.watch.others import marks, own_processes, raise_if_spoilt, watched
from cli.output import print_report, say
from db.ledger.results import Sort
from db.settings import get_settings
from worker.engines.processor import read_processor

ASKED = 5  # how often each query is measured
SAMPLE_SECONDS = 1.0
MIB = 1024 * 1024


def run(sizes: Sequence[int], rows: int, tiny: bool, plot: Path | None, shown: bool, as_json: bool) -> None:
    """Classify a job of each size. Print times and memory.

    Then copy the rows of the largest job into a job of about `rows` slices, and measure the queries about this job.

    `tiny`: use slices of 16 × 16 pixels and the engine `fake`, so that ctbatch itself takes most of the time. `plot`:
    draw a figure into this file. Raise Unavailable if other processes disturbed the run. If `shown`, print the values
    and mark them as disturbed instead.
    """
    if tiny:
        os.environ["CTBATCH_ENGINE"] = "fake"
        get_settings.cache_clear()
    measured: dict[int, dict[str, Any]] = {}
    queries: dict[int, dict[str, float]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctbatch-bench-")))
        bench = stack.enter_context(serve(write_package(folder / "package") if tiny else None))
        warm_up(bench)
        job: dict[str, Any] = {}
        with watched() as disturbance:
            for size in sorted(sizes):
                archive = folder / f"{size}.zip"
                say(f"{size} slices")
                (write_tiny if tiny else _phantoms)(archive, size)
                job, measured[size] = _classified(bench, archive, size)
                archive.unlink()
                queries[size] = _queries(bench, job)
        if rows:
            say(f"copying to {rows} rows")
            queries[rows] = _queries(bench, {"id": copy_job(str(job["id"]), rows)})
    raise_if_spoilt(disturbance, shown)
    report = {
        "processor": read_processor().line,
        "engine": os.environ.get("CTBATCH_ENGINE", "auto"),
        "jobs": measured,
        "query_milliseconds": queries,
        **marks(disturbance),
    }
    if plot is not None:
        from cli.benchmarks.many.plot import draw

        draw(report, plot)
    print_report(report, as_json)


def _phantoms(archive: Path, slices: int) -> None:
    write_phantoms(archive, slices, seed=5)


def _classified(bench: Bench, archive: Path, size: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Classify an archive. Return the job, and its measured values: time for a slice, and memory of each role."""
    with _memory() as memory:
        started = time.monotonic()
        job = last_view(bench, send_archive(bench, archive))
        seconds = time.monotonic() - started
    return job, {
        "predicted": job["counts"]["predicted"],
        "seconds": round(seconds, 1),
        "milliseconds_a_slice": round(1000 * seconds / size, 3),
        "peak_mib": memory.peaks(),
    }


def _queries(bench: Bench, job: dict[str, Any]) -> dict[str, float]:
    """Return the median time of each query about a job, in milliseconds."""
    path = f"/jobs/{job['id']}"
    asked: dict[str, Callable[[], Any]] = {
        "jobs": lambda: bench.client.get("/jobs"),
        "job": lambda: bench.client.get(path),
        "series": lambda: bench.client.get(f"{path}/series"),
        "rejected": lambda: bench.client.get(f"{path}/results", {"state": "rejected"}),
        "positive": lambda: bench.client.get(f"{path}/results", {"label": "COVID"}),
    }
    for order in get_args(Sort):
        asked[f"by {order}"] = partial(bench.client.get, f"{path}/results", {"sort": order})
    return {name: _median(ask) for name, ask in asked.items()}


def _median(ask: Callable[[], Any]) -> float:
    times = []
    for _ in range(ASKED):
        started = time.monotonic()
        ask()
        times.append(time.monotonic() - started)
    return round(1000 * statistics.median(times), 1)


class _memory:  # noqa: N801  (a context manager, used like a function)
    """Measures the memory of each of our processes once a second, and keeps the largest value of each role."""

    def __init__(self) -> None:
        self._largest: dict[str, tuple[int, int]] = {}
        self._end = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def peaks(self) -> dict[str, dict[str, int]]:
        """Return the largest PSS (proportional memory) and RSS (resident memory) of a process by role, in MiB."""
        return {role: {"pss": pss // MIB, "rss": rss // MIB} for role, (pss, rss) in sorted(self._largest.items())}

    def _watch(self) -> None:
        while True:
            for pid in own_processes() - {os.getpid()}:
                with suppress(OSError, ValueError, IndexError):
                    role, size = _role(pid), _sizes(pid)
                    known = self._largest.get(role, (0, 0))
                    self._largest[role] = (max(known[0], size[0]), max(known[1], size[1]))
            if self._end.wait(SAMPLE_SECONDS):
                return


def _role(pid: int) -> str:
    """Return the role of a process, by its environment or its command line: "broker", "decoder", "web", "other", ..."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if b"redis" in command[0] or b"valkey" in command[0]:
        return "broker"
    if any(b"sandbox" in word for word in command):
        return "decoder"
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if entry.startswith(b"CTBATCH_ROLE="):
            return entry.partition(b"=")[2].decode()
    return "other"


def _sizes(pid: int) -> tuple[int, int]:
    """Return the PSS and the RSS of a process in bytes, as in proc_pid_smaps_rollup(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return sizes["Pss"], sizes["Rss"]
