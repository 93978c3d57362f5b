"""`ctbatch submit`: sends files, archives and folders as one job. With `--wait`, waits for the end of the job."""

import re
import secrets
from pathlib import Path

import click

from cli.options import PATH, json_option, need_wait, strict_option
from cli.output import print_json, safe, say
from cli.remote.client import Client
from cli.remote.follow_job import follow
from cli.remote.submit import send

PRIORITY = click.IntRange(-10, 10)


def _check_key(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[!-~]{1,255}", value):
        raise click.BadParameter("use 1 to 255 visible ASCII characters")
    return value


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH)
@click.option("--name", help="Name the job  [default: after its files]")
@click.option(
    "--priority",
    type=PRIORITY,
    default=0,
    show_default=True,
    help="Jobs with a higher priority run first. Only admins may use a priority above 0.",
)
@click.option("--wait", is_flag=True, help="Wait until the job has ended. The exit code says how it ended.")
@strict_option
@click.option(
    "--idempotency-key",
    callback=_check_key,
    help="Send this key. A second submission with this key does not make a second job  [default: a new key]",
)
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

    A folder is sent as a TAR. In the TAR, the name of each file begins with the folder's name. Files and folders whose
    names begin with a dot are left out. Links to folders are not followed. If two PATHS have the same name, or if loose
    files come from several folders, each name begins with the names of parent folders. Every name gets as many parent
    folders as are needed to make all names differ. So pictures of two folders never become one series. If the TAR of a
    folder would have the same name as an archive that you send, the TAR gets a name such as scans-packed.tar. A path
    that is given twice is sent once.

    Prints the job's id, or with --json the whole job. With --wait, prints the outcomes of the slices when the job has
    ended. With --wait, the exit code is 5 if the job predicted nothing, or has quarantined or cancelled slices.
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
