"""Measures the images/s of a whole job and of the engine alone, on the same slices and in the same run."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cli.benchmarks.server import last_view, our_environment, peak_memory, seconds_between, send_archive, serve, warm_up
from cli.benchmarks.slices import pack_files, write_phantoms
from cli.benchmarks.watch.others import marks, raise_if_spoilt, watched
from cli.benchmarks.watch.stage_times import per_slice, stage_seconds
from cli.output import print_report, say
from worker.engines.processor import read_processor


def run(path: Path | None, slices: int, package: Path | None, shown: bool, as_json: bool) -> None:
    """Measure the engine alone, the whole job, and the engine alone again. Print all three speeds.

    Also print the speed of the job divided by the mean speed of the engine.

    Raise Unavailable if other processes disturbed the run. If `shown`, print the values and mark them as disturbed
    instead.
    """
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder, serve(package) as bench:
        archive = Path(folder) / "slices.zip"
        _pack(path, slices, archive)
        warm_up(bench)
        with watched() as first:
            before = _bare_engine(bench.package, archive)
        spent = stage_seconds()
        with watched() as whole_job:
            started = time.monotonic()
            job = last_view(bench, send_archive(bench, archive))
            seconds = time.monotonic() - started
        by_stage = per_slice(spent, stage_seconds(), whole_job.own_seconds, int(job["stages"]["read"]))
        memory = peak_memory(bench.supervisor_pid)
        with watched() as last:
            after = _bare_engine(bench.package, archive)
    worst = max(first, whole_job, last, key=lambda one: one.share)
    raise_if_spoilt(worst, shown)
    predicted = int(job["counts"]["predicted"])
    bare = (before + after) / 2
    whole = predicted / seconds
    report = {
        "slices": int(job["counts"]["received"]),
        "predicted": predicted,
        "bare_engine_per_second": [round(before, 1), round(after, 1)],
        "whole_job_per_second": round(whole, 1),
        "whole_job_seconds": round(seconds, 2),
        "ratio": round(whole / bare, 3),
        "core_ms_a_slice": by_stage,
        "seconds_from_submission_to": {
            "accepted": round(seconds - seconds_between(job, "created_at", "finished_at"), 2),
            "first_result": round(seconds - seconds_between(job, "first_result_at", "finished_at"), 2),
            "finished": round(seconds, 2),
        },
        "peak_memory_mib": memory,
        "processor": read_processor().line,
        **marks(worst),
    }
    print_report(report, as_json)


def _pack(path: Path | None, slices: int, archive: Path) -> None:
    """Make an archive of at most `slices` slices. If `path` is an archive, make a link to it, whatever its size."""
    if path is None:
        write_phantoms(archive, slices, seed=5)
    elif path.is_file():
        archive.symlink_to(path.resolve())
    else:
        say(f"packing slices of {path}")
        pack_files(archive, path, slices)


def _bare_engine(package: Path, archive: Path) -> float:
    """Return the images/s of the engine alone, in a separate process, on the archive's prepared slices."""
    command = [sys.executable, "-P", "-m", "cli.benchmarks.bare_engine", str(package), str(archive)]
    result = subprocess.run(  # noqa: S603  (our own code)
        command, check=True, capture_output=True, text=True, env=our_environment()
    )
    return float(result.stdout.split()[-1])
