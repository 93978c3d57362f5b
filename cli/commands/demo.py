"""`ctbatch demo`: runs the main job on this machine, with the demo model and an archive of phantoms."""

import json
import secrets
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import click

from cli.errors import PartialFailure, Unavailable
from cli.local.access import sign_in_link
from cli.local.demo_model import ensure_demo_model
from cli.options import PORT_HELP, home_option, insecure_option
from cli.output import print_table, say
from cli.remote.client import Client, Json
from cli.remote.find_server import LocalServer, Server
from cli.remote.findings import print_findings
from cli.remote.follow_job import done, raise_for_outcome, summary, watch_progress
from cli.remote.submit import send
from cli.supervisor.background_up import serving
from db.settings import Settings, get_settings

SEED = 7


@click.command()
@click.option("--exit", "exit_after", is_flag=True, help="Stop after the summary  [default: go on serving]")
@click.option(
    "--train",
    is_flag=True,
    help="Train a demo model here. Takes minutes, and needs `make training`.  [default: use the shipped model]",
)
@click.option("--host", help="Listen at this address  [env: CTBATCH_HOST; default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help=PORT_HELP)
@insecure_option
@home_option
def demo(exit_after: bool, train: bool, host: str | None, port: int | None, insecure: bool) -> None:
    """Start everything on this machine, promote the demo model and classify a demo archive.

    The demo model learned from synthetic phantoms and knows nothing about patients. If there is already a champion, the
    job uses the champion. The exit code is 0 only if no slice of the archive was quarantined or cancelled.
    """
    signal.signal(signal.SIGTERM, _stop)
    settings = get_settings()
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ThreadPoolExecutor(1) as background:
        archive = background.submit(make_archive, settings)  # while everything starts
        options = [*(["--host", host] if host else []), *(["--port", str(port)] if port is not None else [])]
        options += ["--insecure"] if insecure else []
        _show(settings, options, archive, train=train, exit_after=exit_after)


def _show(settings: Settings, options: list[str], archive: Future[Path], *, train: bool, exit_after: bool) -> None:
    with serving(settings, options) as (local, process):
        label = ensure_demo_model(train=train)
        say(f"model version: {label}")
        job = run_job(local, archive.result())
        print_summary(local, job)
        say(f"job page (the link signs you in once): {sign_in_link(local.url, job_page(job))}")
        check_complete(job)
        if not exit_after and process is not None:
            say("still serving; press Ctrl-C to stop")
            _serve_on(process)


def _stop(_number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)


def _serve_on(process: subprocess.Popen[bytes]) -> None:
    try:
        code = process.wait()
    except KeyboardInterrupt:
        return
    raise Unavailable(f"ctbatch stopped by itself with code {code}; see up.log in its home")


def make_archive(settings: Settings) -> Path:
    """Make the demo archive and return its path."""
    from training.demo.archive import write_demo_archive

    archive = settings.home / "demo.zip"
    write_demo_archive(archive, seed=SEED)
    return archive


def run_job(local: LocalServer, archive: Path) -> Json:
    """Submit the archive, wait until its job ends and return the job."""
    with Client(Server(local.url, local.token, local=True)) as client:
        job = send(client, (archive,), "demo archive", 0, secrets.token_hex(16))
        return watch_progress(client, job["id"], patient=False)


def print_summary(local: LocalServer, job: Json) -> None:
    """Print the outcomes of the slices, and the findings."""
    say(f"job {job['id']} is {job['state_text']}; model: {job['model_note']}")
    print_table(("outcome", "slices"), summary(job))
    with Client(Server(local.url, local.token, local=True)) as client:
        print_findings(client, job["id"], {})


def job_page(job: Json) -> str:
    """Return the path of a job's page."""
    return urlsplit(str((job.get("links") or {}).get("page") or f"/jobs/{job['id']}")).path


def check_complete(job: Json) -> None:
    """Check that the job finished, and that every slice was predicted or rejected.

    Raises:
        JobFailed: the job failed.
        PartialFailure: nothing was predicted, or some slices are open, quarantined or cancelled.
    """
    raise_for_outcome(job)
    counts = job["counts"]
    if not counts["received"] or done(counts) != counts["received"]:
        raise PartialFailure(f"some slices have no outcome: {json.dumps(counts)}")
