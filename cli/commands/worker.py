"""`ctbatch worker ROLE`: runs the process of a role, or checks that it is healthy."""

import os
import socket
import sys
import time
from contextlib import suppress

import click

from cli.errors import Unavailable
from cli.local.session import check_storage_mark, database_errors
from cli.remote.find_server import local_url, read_local, settings_with_broker
from cli.remote.readiness import why_not_ready
from cli.supervisor.roles import ROLES, check_role, command_line, environment, ready_file
from db.settings import Settings

CHECK_SECONDS = 10.0
STALE_SWEEPS = 6  # after this many intervals without a sweep, the sweeper counts as hung


@click.command()
@click.argument("role", type=click.Choice(ROLES))
@click.option(
    "--check", is_flag=True, help="Start nothing. Exit with 4 if this role's process on this machine is not healthy."
)
@click.option(
    "--name", help="Name this worker  [default: its role]. Needed if one machine runs several workers of a role."
)
def worker(role: str, check: bool, name: str | None) -> None:
    """Run one role in the foreground: web, ingest, inference, training, evaluation or sweep.

    The database must be at this program's revision. `ctbatch db upgrade` upgrades it.

    `ctbatch up` runs every role once. On several machines, run each role as often as you like. Set DATABASE_URL,
    CELERY_BROKER_URL and CTBATCH_STORAGE_URL on all of them.
    """
    settings = settings_with_broker()
    if check:
        _check(role, settings, name)
        return
    check_role(role, settings)
    _check_revision()
    if role == "web":
        check_storage_mark()
    argv = command_line(role, settings, name=name)
    settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    ready_file(role, settings).unlink(missing_ok=True)
    os.chdir(settings.home)  # gunicorn and celery read settings from their folder
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment(role, settings))  # noqa: S606 our own command lines


def _check_revision() -> None:
    """Raise Unavailable if the tables are of another revision. If the database is unreachable, return."""
    from sqlalchemy.exc import OperationalError

    from db import migrate

    with database_errors(), suppress(OperationalError):
        migrate.check_revision()


def _check(role: str, settings: Settings, name: str | None) -> None:
    """Raise Unavailable unless this machine's process of this role is healthy."""
    if role == "web":
        local = read_local(settings.run_dir)
        if why := why_not_ready(local.url if local else local_url(settings.host, settings.port), CHECK_SECONDS):
            raise Unavailable(why)
    elif role == "sweep":
        _check_sweep(settings)
    else:
        _check_celery(f"{name or role}@{socket.gethostname()}", settings)
    click.echo(f"{role} is healthy")


def _check_sweep(settings: Settings) -> None:
    try:
        age = time.time() - ready_file("sweep", settings).stat().st_mtime
    except OSError as error:
        raise Unavailable("the sweeper has not swept yet") from error
    if age > STALE_SWEEPS * max(settings.sweep_seconds, 10):
        raise Unavailable(f"the sweeper has not swept for {age:.0f} s")


def _check_celery(node: str, settings: Settings) -> None:
    """Ping the node through the broker. Its main process answers even while its child works."""
    from db.broker import make_celery

    try:
        answers = make_celery("check").control.ping(destination=[node], timeout=CHECK_SECONDS, limit=1)
    except Exception as error:  # kombu raises the exceptions of its transport
        raise Unavailable(f"the broker does not answer: {error}") from error
    if not answers:
        raise Unavailable(f"{node} does not answer")
