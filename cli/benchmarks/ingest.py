"""Time and memory of taking in one archive of very many tiny slices."""

import io
import secrets
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path

from cli.benchmarks.server import last_view, peak_memory, serve
from cli.output import print_json, print_table, progress_bar, say
from cli.polling import poll
from cli.remote.submit import send


def run(slices: int, package: Path | None, as_json: bool) -> None:
    """Take the archive in, cancel the job when all is unpacked, and print the time and each process's peak memory."""
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder, serve(package) as bench:
        archive = Path(folder) / "tiny.zip"
        say(f"writing an archive of {slices} tiny slices")
        write_tiny(archive, slices)
        started = time.monotonic()
        job = send(bench.client, (archive,), "tiny", 0, secrets.token_hex(16))
        accepted = time.monotonic() - started
        look = partial(bench.client.get, f"/jobs/{job['id']}")
        with progress_bar("unpacking", 1.0) as update:
            for job in poll(look, 1.0):
                update(job["stages"]["read"] / slices, f"{job['stages']['read']} of {slices} slices")
                if job["stages"]["unpacked"] >= job["stages"]["uploads"]:
                    break
        unpacked = time.monotonic() - started
        bench.client.post(f"/jobs/{job['id']}/cancel")
        job = last_view(bench.client, job)
        memory = peak_memory(bench.supervisor_pid)
    report = {
        "received": job["counts"]["received"],
        "accepted_after_seconds": round(accepted, 1),
        "unpacked_after_seconds": round(unpacked, 1),
        "counts": job["counts"],
        "peak_memory_mib": memory,
    }
    if as_json:
        print_json(report)
    else:
        print_table(("figure", "value"), [(name, str(value)) for name, value in report.items()])


def write_tiny(archive: Path, slices: int) -> None:
    """Write an archive of PNGs of 16 x 16 pixels, each of its own pixels."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(3)
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(slices):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(buffer, "PNG")
            packed.writestr(f"{number // 500}/{number}.png", buffer.getvalue())
