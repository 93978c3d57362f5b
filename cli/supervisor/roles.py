"""The command line and environment of each process, known here and nowhere else."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import cli
from cli.errors import Unavailable
from db.settings import Settings
from training.launch.installed import TrainingNotInstalled, check_installed, is_installed

ROLES = ("web", "ingest", "inference", "training", "evaluation", "sweep")
CELERY_APPS = {
    "ingest": "worker.app",
    "inference": "worker.app",
    "training": "training.app",
    "evaluation": "training.app",  # apart: an evaluation takes minutes and is waited for, a run takes hours
}
ENGINE_ROLES = ("inference", "evaluation")  # these load the engine
PROJECT = Path(cli.__file__).resolve().parent.parent  # the folder that the top-level packages are imported from

GUNICORN_LIMITS = (
    "--timeout=60",  # a worker whose loop is silent this long is replaced; requests may take longer
    "--graceful-timeout=10",  # an upload cut off here is sent again by the client under the same key
    "--keep-alive=15",
    "--limit-request-line=4094",
    "--limit-request-fields=64",
    "--limit-request-field_size=8190",
    "--no-control-socket",  # nothing here uses it, and it would live outside CTBATCH_HOME
)


def command_line(role: str, settings: Settings, *, listen_fd: int | None = None, name: str | None = None) -> list[str]:
    """Return the argv of one process.

    Args:
        role: one of `ROLES`.
        settings: host, port and web sizes are taken from here.
        listen_fd: for `web`, a listening socket that is inherited, in place of host and port.
        name: for a Celery role, the node's name before the `@`; the role unless several run on one machine.

    Raises:
        KeyError: there is no such role.
    """
    python = [sys.executable, "-P"]  # -P: a folder named `web` where the user stands must not be imported
    if role == "web":
        return [*python, "-m", "gunicorn", *_gunicorn_options(settings, listen_fd), "web.wsgi:app"]
    if role == "sweep":
        return [*python, "-m", "worker.sweep"]
    app = CELERY_APPS[role]
    options = ["-Q", role, "-P", "prefork", "-c", "1", "-n", f"{name or role}@%h", "-l", settings.log_level]
    return [*python, "-m", "celery", "-A", app, "worker", *options, "--without-gossip", "--without-mingle"]


def _gunicorn_options(settings: Settings, listen_fd: int | None) -> list[str]:
    bind = f"fd://{listen_fd}" if listen_fd is not None else f"{_bracketed(settings.host)}:{settings.port}"
    memory = ["--worker-tmp-dir=/dev/shm"] if Path("/dev/shm").is_dir() else []  # noqa: S108 a heartbeat file, no data
    sizes = [f"--workers={settings.web_workers}", f"--threads={settings.web_threads}"]
    return [f"--bind={bind}", "--worker-class=gthread", *sizes, *GUNICORN_LIMITS, *memory]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def environment(role: str, settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of one process: the present one, its role, and where the packages are."""
    found = dict(os.environ if base is None else base)
    paths = [str(PROJECT), *filter(None, found.get("PYTHONPATH", "").split(os.pathsep))]
    return found | {
        "CTBATCH_ROLE": role,
        "CTBATCH_HOME": str(settings.home),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
    }


def check_role(role: str, settings: Settings) -> None:
    """Raise unless what a process of this role loads is installed here.

    Raises:
        TrainingNotInstalled: it trains.
        Unavailable: it predicts by Keras, which comes with training.
    """
    if role == "training":
        check_installed()
    elif role in ENGINE_ROLES and settings.engine == "keras" and not is_installed():
        raise Unavailable(f"the engine keras comes with training. {TrainingNotInstalled()}")


def ready_file(role: str, settings: Settings) -> Path:
    """The file that a worker touches when it is ready (and the sweeper after each sweep)."""
    return settings.run_dir / f"{role}.ready"
