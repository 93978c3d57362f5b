"""`ctbatch up`: runs everything on this machine until Ctrl-C."""

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import click

from cli.errors import Unavailable, UsageError
from cli.local.access import LocalAccess, sign_in_link
from cli.local.session import check_storage_mark
from cli.options import PORT_HELP, home_option, insecure_option
from cli.output import NO_MODEL, RESEARCH_LINE
from cli.remote.find_server import LOCAL_FILE, LocalServer, local_url, only_one
from cli.remote.readiness import why_not_ready
from cli.supervisor.child import Process
from cli.supervisor.private_broker import PrivateBroker, answers, prepare_broker, set_aside
from cli.supervisor.roles import ROLES, check_role, command_line, environment, ready_file
from cli.supervisor.supervisor import Supervisor
from db import FAKE_ENGINE
from db.access.accounts import LOCAL_USER
from db.settings import ENGINES, Settings, get_settings
from db.storage import storage
from training.launch.installed import TrainingNotInstalled, is_installed

WEB_FIRST, WORKERS, BROKER_LAST = 0, 1, 2  # the order of stopping
WEB_GRACE_SECONDS = 15
WORKER_GRACE_SECONDS = 30  # most chunks end in less time; the others are claimed again under a new lease
READY_CHECK_SECONDS = 0.5
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EAGAIN}  # errors of an output that can be written to again later
SHORT_OF_DISK = (
    "the free disk has reached its reserve (CTBATCH_RESERVE_BYTES): uploads are refused, and workers claim no work;"
    " free some space"
)


@click.command()
@click.option("--host", help="Listen at this address  [env: CTBATCH_HOST; default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help=PORT_HELP)
@click.option("--engine", type=click.Choice(ENGINES), help="Use this engine  [env: CTBATCH_ENGINE; default: auto]")
@insecure_option
@home_option
def up(host: str | None, port: int | None, engine: str | None, insecure: bool) -> None:
    """Run everything on this machine until Ctrl-C: broker, web, ingest, inference, training, evaluation and sweep.

    First makes or upgrades the database. Restarts a process that dies. When everything is ready, prints the address and
    a link that signs you in once. A second Ctrl-C stops everything immediately. If training is not installed, starts
    everything except the training worker.
    """
    for name, value in (("CTBATCH_HOST", host), ("CTBATCH_PORT", port), ("CTBATCH_ENGINE", engine)):
        if value is not None:
            os.environ[name] = str(value)
    settings = get_settings()
    if not insecure:
        check_host(settings)
    check_role("inference", settings)
    make_home(settings)
    with only_one(settings), listening(settings.host, settings.port) as listener:
        run(settings, listener)


def check_host(settings: Settings) -> None:
    """Check that web listens only on this machine, or behind a proxy, which can use TLS.

    Raises:
        UsageError: web would send passwords and scans without encryption.
    """
    if settings.trusted_proxies or is_loopback(settings.host):
        return
    raise UsageError(
        f"listening at {settings.host or 'every address'} sends passwords and scans without encryption; put a proxy"
        " with TLS in front and set CTBATCH_TRUSTED_PROXIES, or add --insecure if you trust everybody on the network"
    )


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def make_home(settings: Settings) -> None:
    """Make the home folder and its run folder, which only this user can read.

    Raises:
        Unavailable: one of the folders cannot be made.
    """
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings.run_dir.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(f"cannot use {settings.home} as home: {error.strerror}") from error


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a listening socket. The supervisor keeps it open, so that no request is refused while web restarts.

    Raises:
        Unavailable: the port is taken.
        UsageError: the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except PermissionError as error:
        raise Unavailable(f"this user may not listen at port {port}; choose a --port above 1023") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"port {port} is taken; choose another with --port, or --port 0 for any free one"
            ) from error
        raise UsageError(f"cannot listen at {host}: {error.strerror}") from error
    with listener:
        yield listener


def run(settings: Settings, listener: socket.socket) -> None:
    """Prepare the database and the local account, then run all processes until a signal comes."""
    (settings.run_dir / LOCAL_FILE).unlink(missing_ok=True)
    url = local_url(settings.host, listener.getsockname()[1])
    if not is_installed():
        emit("up", str(TrainingNotInstalled()))
    broker = None if settings.broker_url else prepare_broker(settings)
    if broker is not None:
        os.environ["CELERY_BROKER_URL"] = broker.url
        get_settings.cache_clear()
        settings = get_settings()
    access = LocalAccess.prepare()
    check_storage_mark()
    supervisor = Supervisor(processes(settings, listener, broker), emit, settings.home)

    def on_ready() -> None:
        LocalServer(url, access.token, os.getpid(), settings.broker_url).write(settings.run_dir)
        announce(url, access)

    def on_stop() -> None:
        (settings.run_dir / LOCAL_FILE).unlink(missing_ok=True)
        listener.close()  # from now on connections are refused at once

    try:
        supervisor.run(on_ready, on_stop)
    finally:
        access.end()


def announce(url: str, access: LocalAccess) -> None:
    """Print the address, a link to sign in, what is missing, and the notice."""
    emit("up", f"ctbatch is ready at {url}")
    minutes = get_settings().sign_in_link_seconds // 60
    emit("up", f"sign in as {LOCAL_USER} by this link, once and within {minutes} minutes: {sign_in_link(url, '/')}")
    emit("up", f"`ctbatch users link {LOCAL_USER}` makes a new one")
    if get_settings().engine == FAKE_ENGINE:
        emit("up", f"CTBATCH_ENGINE={FAKE_ENGINE}: the scores of this engine are made up and mean nothing")
    if not access.has_champion():
        emit("up", f"no model version is the champion: {NO_MODEL}")
    with suppress(OSError):
        if storage().is_short_of_disk():
            emit("up", SHORT_OF_DISK)
    emit("up", RESEARCH_LINE)


def processes(settings: Settings, listener: socket.socket, broker: PrivateBroker | None) -> list[Process]:
    """Return all processes of `up`, with the private broker if one is given. Training is left out if not installed."""
    first = [_broker_process(broker)] if broker is not None else []
    without = {"web"} if is_installed() else {"web", "training"}
    return [
        *first,
        _web_process(settings, listener),
        *(_worker_process(role, settings) for role in ROLES if role not in without),
    ]


def _broker_process(broker: PrivateBroker) -> Process:
    def before_start(failed_starts: int) -> None:
        broker.socket.unlink(missing_ok=True)
        if failed_starts == 2:  # one failure may be chance
            emit("up", f"the broker cannot read its files; they are moved to {set_aside(broker.data)}")

    return Process(
        role="broker",
        argv=broker.argv,
        env=os.environ,
        ready=lambda: answers(broker.socket),
        starts=0,
        stops=BROKER_LAST,
        death_signal=signal.SIGTERM,  # so that the broker writes its data to the disk
        before_start=before_start,
    )


def _web_process(settings: Settings, listener: socket.socket) -> Process:
    port = str(listener.getsockname()[1])
    return Process(
        role="web",
        argv=command_line("web", settings, listen_fd=listener.fileno()),
        env=environment("web", settings) | {"CTBATCH_PORT": port},
        ready=lambda: why_not_ready(local_url(settings.host, int(port)), READY_CHECK_SECONDS) is None,
        stops=WEB_FIRST,
        grace_seconds=WEB_GRACE_SECONDS,
        pass_fds=(listener.fileno(),),
    )


def _worker_process(role: str, settings: Settings) -> Process:
    ready = ready_file(role, settings)
    return Process(
        role=role,
        argv=command_line(role, settings),
        env=environment(role, settings),
        ready=ready.exists,
        stops=WORKERS,
        grace_seconds=WORKER_GRACE_SECONDS,
        before_start=lambda _failed_starts: ready.unlink(missing_ok=True),
    )


def emit(role: str, line: str) -> None:
    """Write one line of a role's output, after the name of the role. If the disk is full, the line is lost.

    If the output has been closed, write nothing from now on.
    """
    try:
        sys.stdout.write(f"{role:<9} | {line}\n")
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in PASSING:
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 for the rest of the process
