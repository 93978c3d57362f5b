"""Images a second of a whole job, beside the bare engine's on the same slices, in the same run."""

import os
import secrets
import subprocess
import sys
import tempfile
import time
import zipfile
from datetime import datetime
from pathlib import Path

from cli.benchmarks.server import Bench, last_view, peak_memory, serve
from cli.output import print_json, print_table, say
from cli.remote.client import Json
from cli.remote.submit import send
from cli.supervisor.roles import PROJECT

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm"}
WARM_UP = 16  # slices of a first job, so that the engine is loaded, as it is for all jobs but the first


def run(path: Path | None, slices: int, package: Path | None, as_json: bool) -> None:
    """Measure the whole job between two measurements of the bare engine, and print all and the ratio."""
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder, serve(package) as bench:
        archive, warm = Path(folder) / "slices.zip", Path(folder) / "warm.zip"
        count = _pack(path, slices, archive, Path(folder))
        write_phantoms(warm, WARM_UP, seed=99)
        _job(bench, warm)
        before = _bare_engine(bench.package, archive)
        started = time.monotonic()
        job = _job(bench, archive)
        seconds = time.monotonic() - started
        memory = peak_memory(bench.supervisor_pid)
        after = _bare_engine(bench.package, archive)
    predicted = int(job["counts"]["predicted"])
    bare = (before + after) / 2
    whole = predicted / seconds
    report = {
        "slices": count,
        "predicted": predicted,
        "bare_engine_per_second": [round(before, 1), round(after, 1)],
        "whole_job_per_second": round(whole, 1),
        "whole_job_seconds": round(seconds, 2),
        "ratio": round(whole / bare, 3),
        "seconds_from_submission_to": {
            "accepted": round(seconds - _between(job, "created_at", "finished_at"), 2),
            "first_result": round(seconds - _between(job, "first_result_at", "finished_at"), 2),
            "finished": round(seconds, 2),
        },
        "peak_memory_mib": memory,
    }
    if as_json:
        print_json(report)
    else:
        print_table(("figure", "value"), [(name, str(value)) for name, value in report.items()])


def _pack(path: Path | None, slices: int, archive: Path, folder: Path) -> int:
    """Make the archive of up to `slices` files; how many it holds."""
    if path is None:
        write_phantoms(archive, slices, seed=5)
        return slices
    if path.is_file():
        archive.symlink_to(path.resolve())
        return slices
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)[:slices]
    say(f"packing {len(files)} files of {path}")
    with zipfile.ZipFile(archive, "w") as packed:
        for file in files:
            packed.write(file, str(file.relative_to(path)))
    return len(files)


def write_phantoms(archive: Path, slices: int, seed: int) -> None:
    """Write an archive of synthetic slices, each of its own pixels."""
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (slices, 12, 12), dtype=np.uint8)
    with zipfile.ZipFile(archive, "w") as packed:
        for number, pixels in enumerate(coarse):
            buffer = io.BytesIO()
            Image.fromarray(pixels).resize((420, 320), Image.Resampling.BICUBIC).save(buffer, "PNG")
            packed.writestr(f"series {number // 50}/{number}.png", buffer.getvalue())


def _job(bench: Bench, archive: Path) -> Json:
    return last_view(bench.client, send(bench.client, (archive,), archive.stem, 0, secrets.token_hex(16)))


def _between(job: Json, start: str, end: str) -> float:
    """Seconds between two times of a job."""
    return (datetime.fromisoformat(job[end]) - datetime.fromisoformat(job[start])).total_seconds()


def _bare_engine(package: Path, archive: Path) -> float:
    """Images a second of the engine alone, in a process of its own, on the prepared slices of the archive."""
    command = [sys.executable, "-P", "-m", "cli.benchmarks.bare_engine", str(package), str(archive)]
    done = subprocess.run(  # noqa: S603  (our own code)
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(PROJECT)}
    )
    return float(done.stdout.split()[-1])
