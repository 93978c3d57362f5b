"""Compares many small jobs with one large job that has as many slices. The worker has loaded the model."""

import tempfile
import time
from pathlib import Path

from sqlalchemy import func, select

from cli.benchmarks.server import Bench, serve, submit, warm_up
from cli.benchmarks.slices import write_phantoms
from cli.benchmarks.watch.others import marks, raise_if_spoilt, watched
from cli.output import print_report, say
from cli.polling import poll
from db.database import read_scope
from db.models import OPEN_JOB, Job, Outcome, Slice
from worker.engines.processor import read_processor

LOOK_SECONDS = 0.1


def run(jobs: int, slices: int, package: Path | None, shown: bool, as_json: bool) -> None:
    """Predict one job of `jobs` × `slices` slices, then `jobs` jobs of `slices` slices. Print both times.

    Raise Unavailable if other processes disturbed the run. If `shown`, print the values and mark them as disturbed
    instead.
    """
    with tempfile.TemporaryDirectory(prefix="ctbatch-bench-") as name, serve(package) as bench:
        folder = Path(name)
        large = folder / "large.zip"
        write_phantoms(large, jobs * slices, seed=5)
        small = [folder / f"{number}.zip" for number in range(jobs)]
        for number, archive in enumerate(small):
            write_phantoms(archive, slices, seed=1000 + number)
        warm_up(bench)
        before = _predicted()
        with watched() as disturbance:
            one, _ = _seconds(bench, [large])
            many, sent = _seconds(bench, small)
        raise_if_spoilt(disturbance, shown)
        predicted = _predicted() - before
    report = {
        "jobs": jobs,
        "slices_a_job": slices,
        "predicted": predicted,
        "one_job_seconds": round(one, 2),
        "small_jobs_seconds": round(many, 2),
        "of_which_sending": round(sent, 2),
        "ratio": round(many / one, 3),
        "processor": read_processor().line,
        **marks(disturbance),
    }
    print_report(report, as_json)


def _seconds(bench: Bench, archives: list[Path]) -> tuple[float, float]:
    """Submit a job for each archive, one by one. Return the seconds until all had ended, and until all were sent."""
    started = time.monotonic()
    for archive in archives:
        submit(bench, archive)
    sent = time.monotonic() - started
    say(f"{len(archives)} jobs are sent")
    for still_open in poll(_count_open, LOOK_SECONDS):
        if not still_open:
            break
    return time.monotonic() - started, sent


def _count_open() -> int:
    with read_scope() as s:
        return s.scalar(select(func.count()).select_from(Job).where(Job.state.in_(OPEN_JOB))) or 0


def _predicted() -> int:
    with read_scope() as s:
        return s.scalar(select(func.count()).where(Slice.state == Outcome.PREDICTED)) or 0
