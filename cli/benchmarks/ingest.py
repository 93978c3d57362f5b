"""Measures how much time and memory it takes to unpack one archive of very many tiny slices."""

import tempfile
import time
from functools import partial
from pathlib import Path

from cli.benchmarks.server import last_view, peak_memory, send_archive, serve
from cli.benchmarks.slices import write_tiny
from cli.output import print_report, progress_bar, say
from cli.polling import poll


def run(slices: int, package: Path | None, as_json: bool) -> None:
    """Unpack an archive of tiny slices, then cancel its job. Print the times and the peak memory of each process."""
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder, serve(package) as bench:
        archive = Path(folder) / "tiny.zip"
        say(f"writing an archive of {slices} tiny slices")
        write_tiny(archive, slices)
        started = time.monotonic()
        job = send_archive(bench, archive)
        accepted = time.monotonic() - started
        look = partial(bench.client.get, f"/jobs/{job['id']}")
        with progress_bar("unpacking", 1.0) as update:
            for job in poll(look, 1.0):
                update(job["stages"]["read"] / slices, f"{job['stages']['read']} of {slices} slices")
                if job["stages"]["unpacked"] >= job["stages"]["uploads"]:
                    break
        unpacked = time.monotonic() - started
        bench.client.post(f"/jobs/{job['id']}/cancel")
        job = last_view(bench, job)
        memory = peak_memory(bench.supervisor_pid)
    report = {
        "received": job["counts"]["received"],
        "accepted_after_seconds": round(accepted, 1),
        "unpacked_after_seconds": round(unpacked, 1),
        "counts": job["counts"],
        "peak_memory_mib": memory,
    }
    print_report(report, as_json)
