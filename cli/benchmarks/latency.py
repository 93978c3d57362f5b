"""Seconds from submitting one slice to its prediction, with a warm worker."""

import secrets
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from cli.benchmarks.job_throughput import write_phantoms
from cli.benchmarks.server import last_view, serve
from cli.output import print_json, print_table
from cli.remote.submit import send

WARM_UP = 3


def run(jobs: int, package: Path | None, as_json: bool) -> None:
    """Submit jobs of one slice, one after the other; what a client sees, and what the database's clock says."""
    seen, recorded = [], []
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder, serve(package) as bench:
        for number in range(WARM_UP + jobs):
            archive = Path(folder) / f"{number}.zip"
            write_phantoms(archive, 1, seed=1000 + number)
            started = time.monotonic()
            job = send(bench.client, (archive,), archive.stem, 0, secrets.token_hex(16))
            predicted = next(view for view in bench.client.watch(job["id"]) if view["counts"]["predicted"])
            if number >= WARM_UP:
                seen.append(time.monotonic() - started)
                times = [datetime.fromisoformat(predicted[name]) for name in ("created_at", "first_result_at")]
                recorded.append((times[1] - times[0]).total_seconds())
            last_view(bench.client, job)
    report = {"jobs": jobs, **_figures("client", seen), **_figures("recorded", recorded)}
    if as_json:
        print_json(report)
    else:
        print_table(("figure", "value"), [(name, str(value)) for name, value in report.items()])


def _figures(name: str, seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20) if len(seconds) > 1 else seconds * 19
    return {f"{name}_median_seconds": round(statistics.median(seconds), 3), f"{name}_p95_seconds": round(cuts[18], 3)}
