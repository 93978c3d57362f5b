"""Measures the seconds from submitting one slice to its prediction, with a worker that has loaded the model."""

import statistics
import tempfile
import time
from pathlib import Path

from cli.benchmarks.server import last_view, seconds_between, serve, submit
from cli.benchmarks.slices import write_phantoms
from cli.benchmarks.watch.others import marks, raise_if_spoilt, watched
from cli.output import print_report
from worker.engines.processor import read_processor

WARM_UP = 3  # jobs


def run(jobs: int, package: Path | None, shown: bool, as_json: bool) -> None:
    """Submit jobs of one slice, one after the other. Print the times by the client's clock and by the database.

    Raise Unavailable if other processes disturbed the run. If `shown`, print the values and mark them as disturbed
    instead.
    """
    seen, recorded = [], []
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as folder, serve(package) as bench:
        archives = [Path(folder) / f"{number}.zip" for number in range(WARM_UP + jobs)]
        for number, archive in enumerate(archives):
            write_phantoms(archive, 1, seed=1000 + number)
        for archive in archives[:WARM_UP]:
            last_view(bench, submit(bench, archive))
        with watched() as disturbance:
            for archive in archives[WARM_UP:]:
                started = time.monotonic()
                job = submit(bench, archive)
                predicted = next(view for view in bench.client.watch(job["id"]) if view["counts"]["predicted"])
                seen.append(time.monotonic() - started)
                recorded.append(seconds_between(predicted, "created_at", "first_result_at"))
                last_view(bench, job)
        raise_if_spoilt(disturbance, shown)
    report = {"jobs": jobs, **_summary("client", seen), **_summary("recorded", recorded)}
    print_report(report | {"processor": read_processor().line} | marks(disturbance), as_json)


def _summary(name: str, seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=20) if len(seconds) > 1 else seconds * 19
    return {f"{name}_median_seconds": round(statistics.median(seconds), 3), f"{name}_p95_seconds": round(cuts[18], 3)}
