"""Makes the command line and the environment of each role."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import cli
from cli.errors import Unavailable
from db.settings import Settings
from training.launch.installed import TrainingNotInstalled, check_installed, is_installed
from worker.engines.processor import usable_cores

ROLES = ("web", "ingest", "inference", "training", "evaluation", "sweep")
CELERY = {  # by role: app, queues, processes
    "ingest": ("worker.app", "ingest", 2),  # at least two, so that a small archive need not wait for a large one
    "inference": ("worker.app", "inference", 1),
    "training": ("training.app", "training", 1),
    # Separate from training. People wait for an evaluation or a dataset, which takes minutes. A run takes hours.
    "evaluation": ("training.app", "evaluation,datasets", 1),
}
# A large machine runs one ingest process for this many cores. An ingest process and its decoders use 1.5 cores.
CORES_AN_INGEST = 4
ENGINE_ROLES = ("inference", "evaluation")  # the roles that load the engine
PROJECT = Path(cli.__file__).resolve().parent.parent  # the folder of the top-level packages

GUNICORN_LIMITS = (
    "--timeout=60",  # seconds; replace a worker whose event loop is silent for longer. A request may take longer
    "--graceful-timeout=10",  # seconds; if an upload is cut off, the client sends it again with the same key
    "--keep-alive=15",  # seconds until a request must begin, and until its head must be complete
    "--worker-connections=1000",
    "--asgi-lifespan=off",
    "--asgi-loop=asyncio",
    "--limit-request-line=4094",
    "--limit-request-fields=64",
    "--limit-request-field_size=8190",
    "--forwarded-allow-ips=",  # web.security.proxies reads X-Forwarded-* of the trusted proxies
    "--no-control-socket",  # nothing uses this socket, and it would be outside CTBATCH_HOME
)


def command_line(role: str, settings: Settings, *, listen_fd: int | None = None, name: str | None = None) -> list[str]:
    """Return the command line of one process.

    Args:
        role: one of `ROLES`.
        settings: state the host, the port, the processes and threads of web, and the log level.
        listen_fd: for `web`, an inherited listening socket, which replaces host and port.
        name: for a Celery role, the node's name before the `@`. Needed only if a machine runs a role several times.

    Raises:
        KeyError: there is no such role.
    """
    python = [sys.executable, "-P"]  # -P: do not import a folder of the user that is named `web`
    if role == "web":
        return [*python, "-m", "gunicorn", *_gunicorn_options(settings, listen_fd), "web.asgi:app"]
    if role == "sweep":
        return [*python, "-m", "worker.sweep"]
    app, queues, processes = CELERY[role]
    if role == "ingest":
        processes = ingest_processes()
    options = ["-Q", queues, "-P", "prefork", "-c", str(processes), "-n", f"{name or role}@%h"]
    options += ["-l", settings.log_level]
    return [*python, "-m", "celery", "-A", app, "worker", *options, "--without-gossip", "--without-mingle"]


def ingest_processes() -> int:
    """Return how many processes of the role `ingest` run on this machine."""
    return max(CELERY["ingest"][2], usable_cores() // CORES_AN_INGEST)


def _gunicorn_options(settings: Settings, listen_fd: int | None) -> list[str]:
    bind = f"fd://{listen_fd}" if listen_fd is not None else f"{_bracketed(settings.host)}:{settings.port}"
    memory = ["--worker-tmp-dir=/dev/shm"] if Path("/dev/shm").is_dir() else []  # noqa: S108 a heartbeat file, no data
    worker = [
        "--config=python:web.server.hooks",
        "--worker-class=web.server.worker.Worker",
        f"--workers={settings.web_workers}",
    ]
    return [f"--bind={bind}", *worker, *GUNICORN_LIMITS, *memory]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def environment(role: str, settings: Settings, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of one process: the present one (or `base`), with its role, its home and our packages."""
    variables = dict(os.environ if base is None else base)
    paths = [str(PROJECT), *filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))]
    if role == "web" and settings.web_workers > 1:  # so that /metrics covers all processes
        own = settings.run_dir / "metrics" / f"{socket.gethostname()}-{settings.port}"  # the home may be shared
        variables.setdefault("PROMETHEUS_MULTIPROC_DIR", str(own))
    variables.setdefault("MALLOC_ARENA_MAX", "2")  # with more arenas, glibc keeps memory that threads have freed
    return variables | {
        "CTBATCH_ROLE": role,
        "CTBATCH_HOME": str(settings.home),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
    }


def check_role(role: str, settings: Settings) -> None:
    """Check that the libraries for a process of this role are installed here.

    Raises:
        TrainingNotInstalled: the role trains, and the libraries are not installed.
        Unavailable: the role predicts with Keras, which comes with training, and Keras is not installed.
    """
    if role == "training":
        check_installed()
    elif role in ENGINE_ROLES and settings.engine == "keras" and not is_installed():
        raise Unavailable(f"the engine keras comes with training. {TrainingNotInstalled()}")


def ready_file(role: str, settings: Settings) -> Path:
    """Return the file that a worker touches when it is ready, and the sweeper after each sweep."""
    return settings.run_dir / f"{role}.ready"
