"""Finds the server to use: the one that the environment names, or else the `ctbatch up` of this machine."""

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import Unavailable, UsageError

if TYPE_CHECKING:  # settings load slowly, and a client of a remote server does not need them
    from db.settings import Settings

LOCAL_FILE = "local.json"
LOCK_FILE = "up.lock"  # `ctbatch up` keeps this file locked while it runs
LOCK_TRIES, LOCK_PAUSE = 10, 0.05  # number of tries, and seconds between them; `read_local` holds the lock for a moment
LAST_PORT = 65_535


@dataclass(frozen=True)
class Server:
    """The address of a server, and a token for it. `local`: the server is the `ctbatch up` of this machine."""

    url: str
    token: str
    local: bool = False


@dataclass(frozen=True)
class LocalServer:
    """The address and the token of a running `ctbatch up`, which writes them to a file that only its user can read."""

    url: str
    token: str
    pid: int
    broker: str  # the broker's URL, for another worker on this machine

    def write(self, run_dir: Path) -> None:
        """Replace the file in one step. The new file has mode 0600 before the token is written."""
        path = run_dir / LOCAL_FILE
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(asdict(self), file)
        draft.rename(path)


def read_local(run_dir: Path) -> LocalServer | None:
    """Return the running `ctbatch up` that has its file in `run_dir`, or None.

    The file alone does not prove that `up` runs. If `up` is killed, the file stays, and another process may get the
    process id in it.
    """
    try:
        local = LocalServer(**json.loads((run_dir / LOCAL_FILE).read_text()))
        with (run_dir / LOCK_FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return local
    except (OSError, ValueError, TypeError):
        pass
    return None


@contextmanager
def only_one(settings: "Settings") -> Iterator[None]:
    """Hold the lock of the home during the block. If this process dies, the kernel releases the lock.

    Raises:
        Unavailable: `ctbatch up` or `ctbatch db restore` holds the lock.
    """
    with (settings.run_dir / LOCK_FILE).open("a") as lock:
        for left in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if not left:
                    raise Unavailable(_who_runs(settings)) from error
                time.sleep(LOCK_PAUSE)
        yield


def _who_runs(settings: "Settings") -> str:
    if local := read_local(settings.run_dir):
        where = f"{settings.home} at {local.url} (process {local.pid})"
        return f"ctbatch is already running in {where}; use it, stop it, or choose another --home"
    return (
        f"`ctbatch up` or `ctbatch db restore` is running in {settings.home}; wait for it, stop it, or choose another"
        " --home"
    )


def settings_with_broker() -> "Settings":
    """Return this process's settings. If they name no broker, use the broker of the local `ctbatch up`.

    Raises:
        Unavailable: the settings name no broker, and no `ctbatch up` runs here.
    """
    settings = settings_with_local_broker()
    if not settings.broker_url:
        raise Unavailable("no message broker is known; set CELERY_BROKER_URL, or run `ctbatch up` on this machine")
    return settings


def settings_with_local_broker() -> "Settings":
    """Do as `settings_with_broker`, but do not raise if no broker is known. Workers then notice changes later."""
    from db.settings import get_settings

    if not get_settings().broker_url and (local := read_local(get_settings().run_dir)):
        os.environ["CELERY_BROKER_URL"] = local.broker
        get_settings.cache_clear()
    return get_settings()


def local_url(host: str, port: int) -> str:
    """Return the address at which this machine reaches a server that listens at `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host)  # noqa: S104 compared, not bound
    return f"http://{name or (f'[{host}]' if ':' in host else host)}:{port}"


def find_server() -> Server:
    """Return the server to use.

    Raises:
        Unavailable: the environment names no server, and none runs here.
        UsageError: the environment names a server without a token, or an address or a token that is not valid.
    """
    url = os.environ.get("CTBATCH_SERVER", "").rstrip("/")
    if url:
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"CTBATCH_SERVER is {url}; it must begin with http:// or https://")
        _check_address(url)
        return Server(url, _token())
    from db.settings import get_settings

    settings = get_settings()
    local = read_local(settings.run_dir)
    if local is None:
        raise Unavailable(
            f"no `ctbatch up` runs in {settings.home}; start one, or set CTBATCH_SERVER and CTBATCH_TOKEN"
        )
    return Server(local.url, local.token, local=True)


def _check_address(url: str) -> None:
    import httpx  # loads slowly, and `up` does not need it

    try:
        parsed = httpx.URL(url)
        is_address = bool(parsed.host) and (parsed.port or 1) <= LAST_PORT
    except (httpx.InvalidURL, ValueError):
        is_address = False
    if not is_address:
        raise UsageError(f"CTBATCH_SERVER is {url!a}, which is not a valid address; use one like https://host:8443")


def _token() -> str:
    token = os.environ.get("CTBATCH_TOKEN", "").strip()
    if not token and (path := os.environ.get("CTBATCH_TOKEN_FILE")):
        try:
            token = Path(path).read_text("utf-8", "replace").strip()
        except OSError as error:
            raise UsageError(f"cannot read the CTBATCH_TOKEN_FILE {path}: {error.strerror}") from error
    if not token:
        raise UsageError("CTBATCH_SERVER is set without a token; set CTBATCH_TOKEN or CTBATCH_TOKEN_FILE too")
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError("the token has a space or a character that no token has; copy it again, without quotes")
    return token
