"""Seconds from submitting one slice to its prediction, with a warm worker."""

import statistics
import tempfile
import time
from pathlib import Path

from cli.benchmarks.server import last_view, seconds_between, send_archive, serve
from cli.benchmarks.slices import write_phantoms
from cli.output import print_report

WARM_UP = 3  # jobs


def run(jobs: int, package: Path | None, as_json: bool) -> None:
    """Submit jobs of one slice, one after the other, and print the time for a client, and by the database's clock."""
    seen, recorded = [], []
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder, serve(package) as bench:
        for number in range(WARM_UP + jobs):
            archive = Path(folder) / f"{number}.zip"
            write_phantoms(archive, 1, seed=1000 + number)
            started = time.monotonic()
            job = send_archive(bench, archive)
            predicted = next(view for view in bench.client.watch(job["id"]) if view["counts"]["predicted"])
            if number >= WARM_UP:
                seen.append(time.monotonic() - started)
                recorded.append(seconds_between(predicted, "created_at", "first_result_at"))
            last_view(bench, job)
    print_report({"jobs": jobs, **_summary("client", seen), **_summary("recorded", recorded)}, as_json)


def _summary(name: str, seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20) if len(seconds) > 1 else seconds * 19
    return {f"{name}_median_seconds": round(statistics.median(seconds), 3), f"{name}_p95_seconds": round(cuts[18], 3)}
