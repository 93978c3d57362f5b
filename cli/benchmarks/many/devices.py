"""Measures the slices/s of 1, 2, 4, ... simulated devices.

A device is a real inference worker whose engine only waits. Each worker and each server (PostgreSQL, Redis, S3) runs on
a simulated host of its own.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cli.benchmarks.many import rows, servers
from cli.benchmarks.many.feed import FILES
from cli.benchmarks.many.hosts import Host, network
from cli.benchmarks.server import our_environment
from cli.benchmarks.watch.others import marks, raise_if_spoilt, watched
from cli.output import print_report, say
from cli.supervisor.roles import command_line, environment, ready_file
from db.settings import Settings
from worker.engines.processor import read_processor

NOT_OURS = ("DATABASE_URL", "CTBATCH_DATABASE_URL", "CELERY_BROKER_URL", "CTBATCH_BROKER_URL", "CTBATCH_STORAGE_URL")
WARM_UP = 2  # chunks for each device


class Feeder:
    """Runs `cli.benchmarks.many.feed` on the host `ingest`, and sends it commands."""

    def __init__(self, host: Host, variables: dict[str, str], log: Path) -> None:
        command = host.command([sys.executable, "-P", "-m", "cli.benchmarks.many.feed"])
        with log.open("ab") as errors:
            self.process = subprocess.Popen(  # noqa: S603  our own module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=variables, text=True
            )
        self._log = log

    def do(self, action: str, **values: Any) -> dict[str, Any]:
        """Send one command, and return the answer. Raises RuntimeError if the feeder fails."""
        assert self.process.stdin is not None  # noqa: S101  (it is a pipe)
        assert self.process.stdout is not None  # noqa: S101  (it is a pipe)
        self.process.stdin.write(json.dumps({"do": action, **values}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the feeder ended; its log ends: {self._log.read_text()[-800:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None  # noqa: S101  (it is a pipe)
        self.process.stdin.close()
        self.process.wait(30)


def run(counts: Sequence[int], rate: float, seconds: float, shown: bool, as_json: bool) -> None:
    """Measure each number of devices in `counts` for about `seconds`, and print the results.

    Each device predicts `rate` slices/s. Raise Unavailable if other processes disturbed a run. If `shown`, print the
    values and mark them as disturbed instead.
    """
    names = ["postgres", "redis", "s3", "ingest", *(f"device{n}" for n in range(1, max(counts) + 1))]
    measured: list[dict[str, Any]] = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # this exit ends all processes and removes the hosts
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ctbatch-bench-")))
        hosts = stack.enter_context(network(names))
        variables = stack.enter_context(_services(folder, hosts, rate))
        feeder = Feeder(hosts["ingest"], variables | {"CTBATCH_HOME": str(folder / "ingest")}, folder / "ingest.log")
        stack.callback(feeder.close)
        feeder.do("prepare")
        say("storing chunk files")
        stored = feeder.do("store", count=min(FILES, _chunks(max(counts), rate, seconds)))
        started = 0
        for count in sorted(counts):
            for number in range(started + 1, count + 1):
                stack.enter_context(_device(hosts[f"device{number}"], variables, folder))
            started = count
            _measure(feeder, hosts, stored["files"], count, WARM_UP * count)
            with watched() as disturbance:
                measured.append(_measure(feeder, hosts, stored["files"], count, _chunks(count, rate, seconds)))
            say(f"{count} devices: {measured[-1]['slices_per_second']} slices/s; others took {disturbance}")
            raise_if_spoilt(disturbance, shown)
            measured[-1] |= marks(disturbance)
    first = measured[0]["slices_per_second"] / measured[0]["devices"]
    for one in measured:
        one["share_of_linear"] = round(one["slices_per_second"] / (first * one["devices"]), 3)
        one["share_of_devices"] = round(one["slices_per_second"] / (rate * one["devices"]), 3)
    report = {
        "processor": read_processor().line,
        "slices_per_second_of_a_device": rate,
        "stored_megabytes_per_second": stored["megabytes_per_second"],
        "devices": {one.pop("devices"): one for one in measured},
    }
    print_report(report, as_json)


def _chunks(devices: int, rate: float, seconds: float) -> int:
    return max(int(devices * rate * seconds / rows.CHUNK), devices)


def _measure(feeder: Feeder, hosts: dict[str, Host], files: list[str], devices: int, chunks: int) -> dict[str, Any]:
    """Record a job's prepared chunks, then let the devices claim them.

    Return its speed, and the core-milliseconds that a slice took on each kind of host.
    """
    before_feeding = {name: host.core_seconds() for name, host in hosts.items()}
    fed = feeder.do("feed", files=files, chunks=chunks)
    before = {name: host.core_seconds() for name, host in hosts.items()}
    answer = feeder.do("release", job=fed["job"])
    cores: dict[str, float] = {}
    for name, host in hosts.items():
        kind = name.rstrip("0123456789") if name.startswith("device") else name
        cores[kind] = cores.get(kind, 0.0) + host.core_seconds() - before[name]
    slices = answer["slices"]
    feeding = sum(before[name] - before_feeding[name] for name in ("ingest", "postgres"))
    return {
        "devices": devices,
        **answer,
        "core_ms_a_slice": {kind: round(1000 * spent / slices, 3) for kind, spent in cores.items()},
        "recorded_per_second_by_ingest": fed["recorded_per_second"],
        "core_ms_a_slice_of_ingest": round(1000 * feeding / slices, 3),
        "closing_seconds": fed["closing_seconds"],
    }


@contextmanager
def _services(folder: Path, hosts: dict[str, Host], rate: float) -> Iterator[dict[str, str]]:
    """Run the three servers, and yield the environment for the processes that use them."""
    with (
        servers.postgres(folder, hosts["postgres"]) as database_url,
        servers.redis(folder, hosts["redis"]) as broker_url,
        servers.s3(folder, hosts["s3"]) as storage,
    ):
        ours = {name: value for name, value in our_environment().items() if name not in NOT_OURS}
        yield (
            ours
            | storage
            | {
                "DATABASE_URL": database_url,
                "CELERY_BROKER_URL": broker_url,
                "CTBATCH_ENGINE": "fake",
                "CTBATCH_FAKE_SECONDS": str(1 / rate),
                "CTBATCH_RESERVE_BYTES": "0",
                "OPENBLAS_NUM_THREADS": "1",
            }
        )


@contextmanager
def _device(host: Host, variables: dict[str, str], folder: Path) -> Iterator[None]:
    """Start an inference worker on a host, and wait until it is ready. Stop it at the end of the block."""
    settings = Settings(home=folder / host.name)
    settings.run_dir.mkdir(parents=True)
    words = command_line("inference", settings, name=host.name)
    command = [*host.command(["env", "-C", settings.home]), *words]
    ready = ready_file("inference", settings)
    ours = environment("inference", settings, variables)
    with servers.running(host.name, command, folder / f"{host.name}.log", ready.exists, ours):
        yield
