"""`ctbatch doctor`: checks everything that an installation needs. Says what is wrong, and what to do."""

import os
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from cli.errors import CommandError, Unavailable
from cli.options import home_option, json_option
from cli.output import NO_MODEL, print_rows
from db.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.registry.engine_proofs import Serving

LOW_DISK_BYTES = 5 * 1024**3
CHECKED_BYTES = 1024**3  # a larger SQLite database takes too long to read
SHOWN_FILES = 5
LOW_MEMORY_BYTES = 4 * 1024**3
State = Literal["ok", "warn", "fail"]
PROOF_STATES: dict[str, State] = {"used": "ok", "fallen back": "warn", "refused": "fail"}


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. If its state is `warn`, ctbatch still works."""

    check: str
    state: State
    detail: str


@click.command()
@click.option("--tune", is_flag=True, help="First tune the champion's engine, unless it is tuned on this machine.")
@home_option
@json_option
def doctor(tune: bool, as_json: bool) -> None:
    """Check this installation, from Python to the server. Print what is wrong, and what to do.

    Writes a small file to the storage, to check that it can be written to. Without --tune, nothing else changes. The
    exit code is 4 if a check fails.
    """
    from db.database import current

    settings = current()
    if tune:
        from cli.local.tuning import champion_version, tune_champion, tunings_of

        if not tunings_of(champion_version()):
            tune_champion()
    results = [result for check in CHECKS for result in check(settings)]
    print_rows([asdict(result) for result in results], ("check", "state", "detail"), as_json)
    if failed := [result.check for result in results if result.state == "fail"]:
        raise Unavailable(f"failed checks: {', '.join(failed)}; see the details above")


def python(_settings: Settings) -> Iterator[CheckResult]:
    """Check the interpreter's version."""
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    state: State = "ok" if good else "fail"
    yield CheckResult("python", state, platform.python_version() + ("" if good else "; install 3.11, 3.12 or 3.13"))


def home(settings: Settings) -> Iterator[CheckResult]:
    """Check that the home can be written to and is closed to other users. Report the free space of its disk."""
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        yield CheckResult("home", "fail", f"{settings.home} cannot be written to; choose another --home")
        return
    if settings.home.exists() and (mode := stat.S_IMODE(settings.home.stat().st_mode)) & 0o077:
        detail = f"other users of this machine may read {settings.home} (mode {mode:o}); run `chmod 700` on it"
        yield CheckResult("home", "warn", detail)
    else:
        yield CheckResult("home", "ok", str(settings.home))
    yield _disk(settings, shutil.disk_usage(folder).free)


def _disk(settings: Settings, free: int) -> CheckResult:
    detail = f"{free / 1024**3:.1f} GiB free"
    if free < settings.reserve_bytes:
        reserve = f"{settings.reserve_bytes / 1024**3:.1f} GiB (CTBATCH_RESERVE_BYTES)"
        advice = "workers claim no work; free some space"
        return CheckResult("disk", "fail", f"{detail}, less than the reserve of {reserve}; {advice}")
    return CheckResult("disk", "ok" if free > LOW_DISK_BYTES else "warn", detail)


def sqlite_place(settings: Settings) -> Iterator[CheckResult]:
    """Check that SQLite is on a disk of this machine. On a network file system, locks can fail and commits get lost."""
    from sqlalchemy.engine import make_url

    from cli.local.file_systems import NETWORK_FILE_SYSTEMS, file_system_of

    url = make_url(settings.database)
    if not url.drivername.startswith("sqlite") or not url.database:
        return
    file_system = file_system_of(Path(url.database))
    if file_system in NETWORK_FILE_SYSTEMS:
        advice = "put CTBATCH_HOME on a disk of this machine, or set DATABASE_URL to a PostgreSQL database"
        yield CheckResult("file system", "fail", f"SQLite is on a network file system ({file_system}); {advice}")
    else:
        yield CheckResult("file system", "ok", file_system)


def memory(_settings: Settings) -> Iterator[CheckResult]:
    """Report the memory and the cores of this machine."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    from worker.engines.processor import usable_cores

    detail = f"{size / 1024**3:.1f} GiB, {usable_cores()} cores"
    yield CheckResult("memory", "ok" if size > LOW_MEMORY_BYTES else "warn", detail)


def processor(_settings: Settings) -> Iterator[CheckResult]:
    """Report the processor, those of its features that affect the speed, and the speed to expect."""
    from worker.engines.processor import expectation, read_processor

    this_processor = read_processor()
    yield CheckResult("processor", "ok", f"{this_processor.line}; {expectation(this_processor)}")


def database(settings: Settings) -> Iterator[CheckResult]:
    """Check that the database answers, can be written to, is at this program's revision, and has a champion."""
    from sqlalchemy.engine import make_url

    from cli.local.session import database_errors, reading
    from db import migrate
    from db.database import check_writable
    from db.registry import champions

    if not settings.database_url and not (settings.home / "ctbatch.db").exists():
        yield CheckResult("database", "warn", "not made yet; `ctbatch up` or `ctbatch db upgrade` makes it")
        return
    try:
        with database_errors():
            migrate.check_revision()
            check_writable()
            revision = migrate.current()
        where = make_url(settings.database).render_as_string(hide_password=True)
        with reading() as session:
            yield _soundness(session, f"{where} at {revision}")
            champion = champions.champion(session)
            yield from _storage(session)
            yield _stored_files(session)
        detail = champion.label if champion else f"none is the champion; {NO_MODEL}"
        yield CheckResult("model version", "ok" if champion else "warn", detail)
    except CommandError as error:
        yield CheckResult("database", "fail", error.message)


def _soundness(session: "Session", detail: str) -> CheckResult:
    """Check that a SQLite database is not damaged. Skip the check if the file is large.

    `detail`: names the database.
    """
    from sqlalchemy import text

    if not (database := session.connection().engine.url).drivername.startswith("sqlite"):
        return CheckResult("database", "ok", detail)
    file = Path(str(database.database))
    if file.stat().st_size > CHECKED_BYTES:
        advice = f"run `sqlite3 {file} 'PRAGMA quick_check'` to look for damage"
        return CheckResult("database", "ok", f"{detail}; not checked for damage, because it is large; {advice}")
    damage = str(session.scalar(text("PRAGMA quick_check(1)")))
    if damage == "ok":
        return CheckResult("database", "ok", f"{detail}; no damage was found")
    advice = "stop ctbatch, then restore a backup with `ctbatch db restore`"
    return CheckResult("database", "fail", f"{detail} is damaged ({' '.join(damage.split())}); {advice}")


def _storage(session: "Session") -> Iterator[CheckResult]:
    """Check that the storage can be written to, and belongs to this database.

    If it belongs to another database, ctbatch removes no files from it.
    """
    from db.installation import ForeignStorage, check_storage
    from db.storage import storage

    try:
        storage().check_writable()
        yield CheckResult("storage", "ok", "can be written to")
        check_storage(session)
        yield CheckResult("storage's owner", "ok", "this database")
    except ForeignStorage as error:
        yield CheckResult("storage's owner", "fail", str(error))
    except OSError as error:
        advice = "check CTBATCH_STORAGE_URL, its server and its credentials, or the folder and its disk"
        why = error.strerror or type(error).__name__
        yield CheckResult("storage", "fail", f"it cannot be read or written to ({why}); {advice}")


def _stored_files(session: "Session") -> CheckResult:
    """Report the stored files that the sweeper found damaged or missing, and how many unused files it leaves."""
    from sqlalchemy import select

    from db.installation import ARE_LEFT, this_installation
    from db.models import DamagedFile
    from db.storage import storage

    damaged = session.scalars(select(DamagedFile.sha256).order_by(DamagedFile.sha256)).all()
    if damaged:
        names = ", ".join(f"{name[:2]}/{name}" for name in damaged[:SHOWN_FILES])
        names += " and more" if len(damaged) > SHOWN_FILES else ""
        advice = f"restore them from a backup under the same names below {storage().folder}"
        return CheckResult("stored files", "fail", f"{len(damaged)} damaged or missing: {names}; {advice}")
    installation = this_installation(session)
    if unexpected := installation.unexpected_files:
        return CheckResult("stored files", "warn", f"the database does not refer to {unexpected} of them. {ARE_LEFT}")
    at = installation.reread_at
    since = f"all were read again by {at:%Y-%m-%d %H:%M} UTC" if at else "the sweeper has not read all of them yet"
    return CheckResult("stored files", "ok", f"no file is damaged or missing; {since}")


def broker(settings: Settings) -> Iterator[CheckResult]:
    """Check that the broker of the settings answers, or that a program for a private broker is installed."""
    from cli.supervisor.private_broker import find_binary
    from db import broker as broker_

    if not settings.broker_url:
        try:
            yield CheckResult("broker", "ok", f"private, by {find_binary()}")
        except Unavailable as error:
            yield CheckResult("broker", "fail", error.message)
        return
    try:
        broker_.ping()
        yield CheckResult("broker", "ok", "CELERY_BROKER_URL answers")
    except (ConnectionError, ValueError) as error:
        yield CheckResult("broker", "fail", str(error))


def engine(settings: Settings) -> Iterator[CheckResult]:
    """Check that the library of the CPU engine loads, and report its devices."""
    try:
        import openvino
    except ImportError as error:
        state: State = "fail" if settings.engine.startswith("openvino") else "warn"
        yield CheckResult("engine", state, f"OpenVINO cannot be loaded: {error}")
        return
    devices = ", ".join(openvino.Core().available_devices)
    yield CheckResult("engine", "ok", f"{settings.engine}; OpenVINO {openvino.__version__.split('-')[0]} on {devices}")


def decoder(_settings: Settings) -> Iterator[CheckResult]:
    """Start one sandboxed decoder, and check that its system call filter is set."""
    from worker.decoding import check_decoder
    from worker.imaging.rejections import DecoderUnavailable

    try:
        unfiltered = check_decoder()
    except DecoderUnavailable as error:
        yield CheckResult("decoder", "fail", str(error))
        return
    detail = f"starts, without a system call filter: {unfiltered}" if unfiltered else "starts, and is confined"
    yield CheckResult("decoder", "warn" if unfiltered else "ok", detail)


def training(_settings: Settings) -> Iterator[CheckResult]:
    """Check that training is installed. Serving does not need it."""
    from importlib.metadata import version

    from training.launch.installed import TrainingNotInstalled, is_installed

    if is_installed():
        yield CheckResult("training", "ok", f"TensorFlow {version('tensorflow')}, Keras {version('keras')}")
    else:
        yield CheckResult("training", "warn", str(TrainingNotInstalled()))


def engine_proof(settings: Settings) -> Iterator[CheckResult]:
    """Report the result of the champion's engine proof, from the last time a worker here loaded the champion."""
    from cli.local.session import reading
    from db.registry import champions, engine_proofs

    host = socket.gethostname()
    if not settings.database_url and not (settings.home / "ctbatch.db").exists():
        return
    try:
        with reading() as session:
            champion = champions.champion(session)
            version_id = champion.id if champion else None
            servings = engine_proofs.list_servings(session, host=host, version_id=version_id) if champion else []
    except CommandError:  # the check `database` reports this error
        return
    if champion is None:
        return
    if not servings:
        yield CheckResult("engine proof", "ok", f"not loaded: no running worker on {host} has loaded {champion.label}")
        return
    [serving] = servings
    yield CheckResult("engine proof", PROOF_STATES[serving.state], _proof_detail(serving))


def tuning(settings: Settings) -> Iterator[CheckResult]:
    """Report how the champion's engine was tuned on this machine, or that it was not tuned."""
    from cli.local.tuning import champion_version, describe, tunings_of

    if not settings.database_url and not (settings.home / "ctbatch.db").exists():
        return
    try:
        tunings = tunings_of(champion_version())
    except CommandError:  # the check `database` reports this error
        return
    untuned = "not tuned on this machine; `ctbatch tune` does it in half a minute"
    yield CheckResult("tuning", "ok", "; ".join(describe(*one) for one in tunings.items()) or untuned)


def _proof_detail(serving: "Serving") -> str:
    """Return which engine predicts and how far it differs from float32, or what failed and what to do."""
    if serving.state != "used":
        return " ".join([serving.message, *(f"{reason}." for reason in serving.reasons), serving.advice])
    largest = serving.proofs[-1].largest_difference
    measured = "unproven" if largest is None else f"a probability differs by at most {largest:.4f}"
    return f"{serving.engine} predicts with {serving.version.label}; {measured}"


def server(_settings: Settings) -> Iterator[CheckResult]:
    """Check that the server answers and accepts the token. Commands such as `submit` use the same server and token."""
    from cli.remote.client import Client
    from cli.remote.find_server import find_server

    try:
        address = find_server()
    except CommandError as error:
        yield CheckResult("server", "warn", error.message)
        return
    try:
        with Client(address) as client:
            client.check()
        yield CheckResult("server", "ok", address.url)
    except CommandError as error:
        yield CheckResult("server", "fail", error.message)


def proxy(settings: Settings) -> Iterator[CheckResult]:
    """Report what a web process of this machine noticed about the proxies in front of it."""
    if settings.proxy_note.exists():
        yield CheckResult("proxy", "warn", settings.proxy_note.read_text())


CHECKS: tuple[Callable[[Settings], Iterator[CheckResult]], ...] = (
    python, home, sqlite_place, memory, processor, database, broker, decoder, engine, training, engine_proof, tuning,
    server, proxy,
)  # fmt: skip
