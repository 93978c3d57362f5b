"""`ctbatch submit`: sends files, archives and folders as one job, and waits for it if asked to."""

import secrets
from pathlib import Path

import click

from cli.options import json_option, need_wait, strict_option
from cli.output import print_json, safe, say
from cli.remote.client import Client
from cli.remote.follow_job import follow
from cli.remote.submit import send


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="What to call the job; else it is named after the files.")
@click.option("--priority", type=click.IntRange(-10, 10), default=0, show_default=True, help="Higher goes first.")
@click.option("--wait", is_flag=True, help="Wait until the job has ended, and say how by the exit code.")
@strict_option
@click.option("--idempotency-key", help="The same key with the same files gives the same job. Else one is made.")
@json_option
def submit(
    paths: tuple[Path, ...],
    name: str | None,
    priority: int,
    wait: bool,
    strict: bool,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Send PATHS as one job: files, archives (ZIP, TAR, TAR.GZ, TAR.BZ2, TAR.XZ) or folders.

    A folder is walked and sent as a TAR that is made on the way; its files and folders whose names begin with a dot
    are passed over, and links to folders are not followed. With --json the job is printed, as the last line: as it is
    after the submission, or with --wait when it has ended.

    With --wait a job that predicted nothing exits with 5. --strict does so for any rejected file as well.
    """
    need_wait(strict, wait)
    with Client() as client:
        job = send(client, paths, name, priority, idempotency_key or secrets.token_hex(16))
        if not as_json:
            say(f"job {job['id']}: {safe(job['name'])}; its page: {client.page(job)}")
        if wait:
            follow(client, job["id"], strict=strict, as_json=as_json)
        elif as_json:
            print_json(job)
        else:
            click.echo(job["id"])
