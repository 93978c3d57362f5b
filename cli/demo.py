"""`ctbatch demo`: the main job on this machine, end to end, with the demo model and an archive of phantoms."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import click

from cli.child import die_with_parent
from cli.client import Client, Json
from cli.demo_model import ensure_demo_model
from cli.errors import PartialFailure, Unavailable
from cli.follow import done, raise_for_outcome, summary, watch_progress
from cli.local_access import sign_in_link
from cli.operator import reading
from cli.options import home_option
from cli.output import RESEARCH_LINE, print_table, progress_bar, say
from cli.processes import PROJECT
from cli.server import LocalServer, Server, read_local
from cli.submit import send
from db.models import Job
from db.results import series_summary
from db.settings import Settings, get_settings

SEED = 7
LOG_LINES = 20  # of the log, shown where the start fails
POLL_SECONDS = 0.1


@click.command()
@click.option("--exit", "exit_after", is_flag=True, help="Stop after the summary, instead of serving on.")
@click.option("--train", is_flag=True, help="Train a demo model here (minutes), instead of taking the one that ships.")
@click.option("--host", help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 for any free one.")
@home_option
def demo(exit_after: bool, train: bool, host: str | None, port: int | None) -> None:
    """Show the main job on this machine: start everything, take the demo model, classify a demo archive.

    The model learned from synthetic phantoms: it knows nothing about patients. A champion that is there already is used
    instead. Exit code 0 only if every slice of the archive has its outcome.
    """
    signal.signal(signal.SIGTERM, _stop)
    settings = get_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ThreadPoolExecutor(1) as background:
        archive = background.submit(make_archive, settings)  # while everything starts
        _show(settings, host, port, archive, train=train, exit_after=exit_after)


def _show(
    settings: Settings, host: str | None, port: int | None, archive: Future[Path], *, train: bool, exit_after: bool
) -> None:
    with serving(settings, host, port) as (local, process):
        label = ensure_demo_model(train=train)
        say(f"model version: {label}")
        job = run_job(local, archive.result())
        print_summary(job)
        say(f"job page, signed in once: {sign_in_link(local.url, job_page(job))}")
        say(RESEARCH_LINE)
        check_complete(job)
        if not exit_after and process is not None:
            say("serving on; Ctrl-C stops")
            _serve_on(process)


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


@contextmanager
def serving(
    settings: Settings, host: str | None, port: int | None
) -> Iterator[tuple[LocalServer, subprocess.Popen[bytes] | None]]:
    """Yield the server of this home, started if none runs; one that was started is stopped at the end."""
    if running := read_local(settings.run_dir):
        say(f"using the ctbatch that runs at {running.url}")
        yield running, None
        return
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = settings.home / "up.log"
    say(f"starting everything in {settings.home} (what it says: {log})")
    options = [*(["--host", host] if host else []), *(["--port", str(port)] if port is not None else [])]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 our own command
            [sys.executable, "-P", "-m", "cli", "up", *options],
            env=os.environ | {"PYTHONPATH": str(PROJECT), "CTBATCH_HOME": str(settings.home)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo, which then stops this in order
            preexec_fn=die_with_parent(signal.SIGTERM),
        )
    try:
        yield _wait_until_ready(settings, process, log), process
    finally:
        say("stopping")
        stop_process(process)


def _wait_until_ready(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> LocalServer:
    with progress_bar("starting", 1.0) as update:
        while True:
            local = read_local(settings.run_dir)
            if local is not None and local.pid == process.pid:
                update(1.0, f"ready at {local.url}")
                return local
            if process.poll() is not None:
                tail = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
                raise Unavailable("ctbatch did not start; it said:\n" + "\n".join(tail))
            time.sleep(POLL_SECONDS)


def stop_process(process: subprocess.Popen[bytes]) -> None:
    """Ask `up` to stop and wait until it has; each Ctrl-C meanwhile is passed on, and the second one forces it."""
    process.terminate()
    while process.poll() is None:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)


def _serve_on(process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait()
    except KeyboardInterrupt:
        return
    raise Unavailable(f"ctbatch stopped by itself with code {code}")


def make_archive(settings: Settings) -> Path:
    """Make the demo archive and return its file."""
    from training.demo_archive import write_demo_archive

    archive = settings.home / "demo.zip"
    write_demo_archive(archive, seed=SEED)
    return archive


def run_job(local: LocalServer, archive: Path) -> Json:
    """Submit the archive, wait for its job's end and return the job."""
    with Client(Server(local.url, local.token, local=True)) as client:
        job = send(client, (archive,), "demo archive", 0, secrets.token_hex(16))
        return watch_progress(client, job["id"], patient=False)


def print_summary(job: Json) -> None:
    """Print what came of the slices, and the share of positive ones by series."""
    say(f"job {job['id']} is {job['state_text']}; model: {job['model_note']}")
    print_table(("outcome", "slices"), summary(job))
    with reading() as session:
        row = session.get(Job, job["id"])
        series = series_summary(session, row) if row is not None else []
    if series:
        shares = [
            (each.label, each.slices, each.predicted, each.positive, _share(each.positive, each.predicted))
            for each in series
        ]
        print_table(("series", "slices", "predicted", "positive", "share"), shares)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else ""


def job_page(job: Json) -> str:
    """Return the path of a job's page."""
    return urlsplit(str((job.get("links") or {}).get("page") or f"/jobs/{job['id']}")).path


def check_complete(job: Json) -> None:
    """Raise unless the job finished and every slice has its outcome.

    Raises:
        PartialFailure: a slice has none, or was quarantined or cancelled.
        JobFailed: the job failed.
    """
    raise_for_outcome(job)
    counts = job["counts"]
    if not counts["received"] or done(counts) != counts["received"]:
        raise PartialFailure(f"not every slice has its outcome: {json.dumps(counts)}")
