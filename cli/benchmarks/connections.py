"""Measures how long a page takes while other clients hold connections open, upload slowly and read slowly."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from cli.benchmarks.crowd import Target, crowd, unchecked
from cli.benchmarks.server import our_environment, serve
from cli.errors import Unavailable
from cli.output import print_report, say
from cli.polling import poll
from cli.supervisor.roles import PROJECT
from db.settings import get_settings
from worker.engines.processor import read_processor

PATIENCE_SECONDS = 10.0  # the longest wait for one page
PROXY = PROJECT / ".docker" / "nginx.conf"


def run(pages: int, idle: int, uploads: int, readers: int, package: Path | None, as_json: bool) -> None:
    """Print the longest time of a page, with and without the crowd of slow clients.

    Measure `ctbatch up`, and the same application served by gunicorn's own worker with threads. If nginx is installed,
    also measure `ctbatch up` behind the proxy of docker-compose.yml.
    """
    report: dict[str, object] = {"processor": read_processor().line, "pages": pages}
    report["crowd"] = f"{idle} idle connections, {uploads} slow uploads, {readers} slow readers"
    with serve(package) as bench:
        direct = Target(bench.client.server.url, bench.client.server.token)
        with plain_server() as url:
            _measure("plain_gthread", Target(url, direct.token), pages, (idle, uploads, readers), report)
        _measure("up", direct, pages, (idle, uploads, readers), report)
        if shutil.which("nginx") and PROXY.exists():
            with proxy(urlsplit(direct.url).port or 80) as url:
                _measure("behind_proxy", Target(url, direct.token), pages, (idle, uploads, readers), report)
        else:
            say("nginx is not installed; nothing is measured behind the proxy")
    print_report(report, as_json)


def _measure(name: str, target: Target, pages: int, sizes: tuple[int, int, int], report: dict[str, object]) -> None:
    say(f"measuring {name}")
    report[f"{name}_alone_worst_ms"] = _worst(target, pages)
    with crowd(target, *sizes):
        report[f"{name}_worst_ms"] = _worst(target, pages)
        if name != "behind_proxy":  # the proxy does not pass on /healthz, which is for monitoring
            report[f"{name}_health_worst_ms"] = _worst(target, pages, "/healthz")


def _worst(target: Target, pages: int, path: str = "/jobs") -> float | str:
    """Return the longest time of a page in ms, or a text if a page took too long. Each page has a new connection."""
    worst = 0.0
    headers = {"Authorization": f"Bearer {target.token}"}
    for _ in range(pages):
        started = time.perf_counter()
        try:
            with httpx.Client(verify=unchecked(), trust_env=False, timeout=PATIENCE_SECONDS) as client:
                status = client.get(f"{target.url}{path}", headers=headers).status_code
        except httpx.TimeoutException:
            return f"no answer within {PATIENCE_SECONDS:.0f} s"
        if status != 200:
            raise Unavailable(f"{path} answered {status}")
        worst = max(worst, time.perf_counter() - started)
    return round(1000 * worst, 1)


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def plain_server() -> Iterator[str]:
    """Serve the same application and database with gunicorn's own worker. Yield the URL.

    The worker has as many threads as `ctbatch up` has for pages.
    """
    port = free_port()
    argv = [sys.executable, "-P", "-m", "gunicorn", f"--bind=127.0.0.1:{port}", "--worker-class=gthread"]
    argv += [f"--threads={get_settings().web_threads}", "--no-control-socket", "web.app:create_app()"]
    with _running(argv, f"http://127.0.0.1:{port}"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def proxy(web_port: int) -> Iterator[str]:
    """Run the proxy of docker-compose.yml in front of a server on this machine. Yield the URL of the proxy."""
    with tempfile.TemporaryDirectory(prefix="ctbatch-proxy-") as folder:
        port = free_port()
        config = proxy_config(Path(folder), web_port, port)
        argv = ["nginx", "-p", folder, "-c", str(config), "-e", "stderr", "-g", "daemon off;"]
        with _running(argv, f"https://127.0.0.1:{port}"):
            yield f"https://127.0.0.1:{port}"


def proxy_config(folder: Path, web_port: int, port: int) -> Path:
    """Make a certificate, write the proxy's configuration for these ports, and return its path."""
    subject = ["-subj", "/CN=localhost", "-keyout", str(folder / "tls_key"), "-out", str(folder / "tls_certificate")]
    subprocess.run(  # noqa: S603 our own command line
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject],  # noqa: S607
        check=True,
        capture_output=True,
    )
    text = PROXY.read_text()
    for name, here in (
        ("/tmp/", f"{folder}/"),  # noqa: S108 the container's /tmp becomes this folder
        ("/run/secrets/", f"{folder}/"),
        ("web:8000", f"127.0.0.1:{web_port}"),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8081", f"127.0.0.1:{free_port()}"),
    ):
        text = text.replace(name, here)
    config = folder / "nginx.conf"
    config.write_text(text)
    return config


@contextmanager
def _running(argv: list[str], url: str) -> Iterator[None]:
    """Start a server, wait for its first answer, and stop it after the block. Raises Unavailable if it ends early."""
    env = our_environment() | {"CTBATCH_HOME": str(get_settings().home)}
    process = subprocess.Popen(  # noqa: S603 our own command lines
        argv, env=env, cwd=get_settings().home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in poll(process.poll, 0.1):
            if process.returncode is not None:
                raise Unavailable(f"{argv[0]} ended with code {process.returncode} before it answered")
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/sign-in", verify=unchecked(), trust_env=False).status_code == 200:
                    break
        yield
    finally:
        process.terminate()
        process.wait()
