"""docker-compose.yml: every service's very command, started here against a real Redis and a real PostgreSQL."""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from cli.supervisor.roles import ROLES

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / ".docker/Dockerfile"
COMPOSE = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("ctbatch/")]
LONG_RUNNING = [name for name in OURS if name != "migrate"]
READY_SECONDS = 90
TLS_BYTES = 40 * 1024  # of a connection in nginx, about


def test_compose_has_every_role_and_volume():
    assert set(SERVICES) >= {"proxy", "redis", "postgres", "migrate", *ROLES}
    assert SERVICES["inference-gpu"]["profiles"] == ["gpu"]
    assert {"redis", "postgres", "files"} <= set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_and_names_that_exist(name):
    service = SERVICES[name]
    if name != "migrate":
        assert service["healthcheck"]["test"][0] == "CMD"
    assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert {volume.split(":")[0] for volume in service["volumes"]} <= set(COMPOSE["volumes"]) if name in OURS else True
    for other, condition in service.get("depends_on", {}).items():
        wanted = condition["condition"]
        assert wanted == ("service_completed_successfully" if other == "migrate" else "service_healthy")
    if "build" in service:
        assert PROJECT / service["build"]["dockerfile"] == DOCKERFILE
        assert service["image"] == f"ctbatch/{service['build']['target']}"
        assert service["build"]["target"] in stages()


@pytest.mark.parametrize("name", SERVICES)
def test_compose_file_holds_no_secret(name):
    for key, value in SERVICES[name].get("environment", {}).items():
        if any(word in key for word in ("PASSWORD", "SECRET", "TOKEN", "DATABASE_URL")):
            assert key.endswith("_FILE")
            assert str(value).removeprefix("/run/secrets/") in SERVICES[name]["secrets"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_confined_and_has_limits(name):
    service = SERVICES[name]
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service["read_only"] is True
    assert {"mem_limit", "pids_limit"} <= set(service)
    assert name in OURS or service["user"].split(":")[0] not in ("", "0", "root")


@pytest.mark.parametrize("name", OURS)
def test_home_of_a_service_is_a_named_volume(name):
    targets = {target: source for source, target in (volume.split(":") for volume in SERVICES[name]["volumes"])}
    assert targets == {"/files": "files", "/var/lib/ctbatch": f"home-{name}"}


def test_secrets_go_to_those_who_need_them():
    readers = {
        secret: {name for name in SERVICES if secret in SERVICES[name]["secrets"]} for secret in COMPOSE["secrets"]
    }
    assert readers == {
        "postgres_password": {"postgres"},
        "database_url": set(OURS),
        "broker_url": {"redis", *OURS},
        "redis_conf": {"redis"},
        "secret_key": {"web"},
        "tls_certificate": {"proxy"},
        "tls_key": {"proxy"},
    }


def test_what_clients_can_make_the_proxy_hold_fits_its_memory():
    proxy = SERVICES["proxy"]
    config = (PROJECT / ".docker/nginx.conf").read_text()

    def value(name: str) -> int:
        [number, unit] = re.search(rf"\b{name} (\d+)([km]?)\b", config).groups()
        return int(number) * {"": 1, "k": 1024, "m": 1024**2}[unit]

    [count, kib] = map(int, re.search(r"proxy_buffers (\d+) (\d+)k;", config).groups())
    request = value("client_body_buffer_size") + value("proxy_buffer_size") + count * kib * 1024
    connections = value("worker_processes") * value("worker_connections")
    [bodies] = re.search(r"size=(\d+)m", str(proxy.get("tmpfs"))).groups()
    held = value("limit_conn everyone") * request + connections * TLS_BYTES + int(bodies) * 1024**2
    assert proxy["mem_limit"] == "256m"
    assert held < 256 * 1024**2


def test_only_the_proxy_is_reached_from_outside():
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["proxy"]
    assert "outside" not in SERVICES["web"]["networks"]
    web = Composed.resolved(SERVICES["web"]["environment"])
    assert (web["CTBATCH_SECURE_COOKIES"], web["CTBATCH_TRUSTED_PROXIES"]) == ("true", "1")


def test_broker_writes_to_disk_and_evicts_nothing():
    options = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes --appendfsync everysec" in options
    assert "--maxmemory-policy noeviction" in options


def test_make_secrets_writes_every_secret_once(tmp_path):
    def make() -> dict[str, str]:
        subprocess.run(["sh", PROJECT / ".docker/make-secrets"], env={"CTBATCH_SECRETS": str(tmp_path)}, check=True)
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    made = make()
    assert set(made) == set(COMPOSE["secrets"])
    assert len(made["secret_key"]) == 64
    assert f":{made['postgres_password']}@postgres:5432/" in made["database_url"]
    assert made["broker_url"] == f"redis://default:{made['redis_conf'].removeprefix('requirepass ')}@redis:6379/0"
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
        tmp_path / "tls_certificate", tmp_path / "tls_key"
    )
    assert make() == made


def stages() -> dict[str, list[str]]:
    """Each stage of the Dockerfile with its instructions, those of the stage that it continues first."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    stages: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("FROM"):
            _, base, _, name = line.split()
            stages[name] = list(stages.get(base, []))
        elif line and not line.startswith("#"):
            stages[name].append(line)
    return stages


def locks_of(target: str) -> list[str]:
    """The locks that an image installs, in order."""
    return [
        lock for line in stages()[target] if line.startswith("RUN") for lock in re.findall(r"-r \.lock/(\S+)", line)
    ]


@pytest.mark.parametrize(
    ("target", "locks"),
    [
        ("web", ["serving.txt"]),
        ("cpu", ["serving.txt"]),
        ("training", ["serving.txt", "training.txt"]),
        ("gpu", ["serving.txt", "training.txt", "gpu.txt"]),
    ],
)
def test_image_installs_what_its_processes_need_and_no_more(target, locks):
    assert locks_of(target) == ["uv.txt", "build.txt", *locks]


def test_image_installs_nothing_without_hashes():
    for line in {line for lines in stages().values() for line in lines if "pip install" in line}:
        parts = [part for part in line.split("&&") if "pip install" in part]
        assert all(
            "--require-hashes" in part or part.endswith("--no-build-isolation --prefix /ctbatch .") for part in parts
        )


def test_image_copies_only_files_of_the_build_context():
    given = (PROJECT / ".dockerignore").read_text()
    for line in {line for lines in stages().values() for line in lines if line.startswith("COPY .lock")}:
        assert all((PROJECT / name).is_file() for name in line.split()[1:-1])
    assert all(f"!{name}\n" in given for name in (".lock", "db", "worker", "training", "web", "cli", "pyproject.toml"))


def only_for_training() -> list[str]:
    """The modules of every package that the lock of training has and that of serving lacks."""
    names = pinned("training.txt") - pinned("serving.txt")
    distributions = packages_distributions().items()
    return [module for module, of in distributions if {re.sub(r"[-_.]+", "-", name).lower() for name in of} <= names]


def pinned(lock: str) -> set[str]:
    """The names of the packages in a lock."""
    return set(re.findall(r"^([a-z0-9.-]+)(?:\[.*\])?==", (PROJECT / ".lock" / lock).read_text(), re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        ["web.asgi", "worker.sweep", "cli.commands.db", "cli.commands.up"],
        [
            "worker.app",
            "worker.tasks",
            "worker.datasets.build",
            "worker.imaging.sandbox.pool",
            "worker.engines.openvino",
            "openvino",
        ],
        [
            "training.app",
            "training.tasks",
            "training.evaluation.evaluate_version",
            "training.demo.archive",
            "training.launch.weights_file",
        ],
    ],
)
def test_serving_roles_start_without_the_libraries_of_training(modules, tmp_path):
    absent = only_for_training()
    assert {"tensorflow", "keras", "nncf", "matplotlib", "seaborn", "pandas"} <= set(absent)
    code = f"import sys; sys.modules.update(dict.fromkeys({absent!r})); import {', '.join(modules)}"
    env = {"CTBATCH_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


class Composed:
    """The services on this machine: their commands as they are, their names and folders mapped to the loopback."""

    def __init__(self, folder: Path, database_url: str, redis_port: int, web_port: int) -> None:
        self.folder = folder
        self.web_port = web_port
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.replace = {"/run/secrets/": f"{folder}/secrets/", "/files": f"{folder}/files"}
        secrets = folder / "secrets"
        subprocess.run(["sh", PROJECT / ".docker/make-secrets"], env={"CTBATCH_SECRETS": str(secrets)}, check=True)
        (secrets / "database_url").write_text(database_url)
        broker_url = (secrets / "broker_url").read_text()
        (secrets / "broker_url").write_text(broker_url.replace("@redis:6379/", f"@127.0.0.1:{redis_port}/"))

    @staticmethod
    def resolved(environment: dict[str, str]) -> dict[str, str]:
        """The environment where the host sets none of its variables."""
        return {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for key, value in environment.items()}

    def env(self, name: str) -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT)}
        for key, value in self.resolved(SERVICES[name]["environment"]).items():
            for before, after in self.replace.items():
                value = value.replace(before, after)
            environment[key] = value
        environment["CTBATCH_HOME"] = f"{self.folder}/{name}"
        if name == "web":
            environment |= {"CTBATCH_HOST": "127.0.0.1", "CTBATCH_PORT": str(self.web_port)}
        return environment | {"CTBATCH_ENGINE": "fake"}

    def run(self, name: str, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "cli", *words]
        return subprocess.run(argv, env=self.env(name), capture_output=True, text=True, timeout=timeout)

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "cli", *SERVICES[name]["command"]],
                env=self.env(name),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def check(self, name: str) -> subprocess.CompletedProcess[str]:
        kind, program, *words = SERVICES[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "ctbatch")
        return self.run(name, *words)

    def wait_until_healthy(self, name: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while (checked := self.check(name)).returncode != 0:
            log = (self.folder / f"{name}.log").read_text()
            assert self.processes[name].poll() is None, f"{name} ended:\n{log}"
            assert time.monotonic() < deadline, f"{name}: {checked.stderr}\n{log}"
            time.sleep(0.5)

    def stop(self) -> dict[str, int]:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(60) for name, process in self.processes.items()}


@pytest.fixture
def composed(tmp_path, postgres_url):
    """The composed services, not started yet, their Redis running with the file's own command."""
    program, *options = SERVICES["redis"]["command"]
    if shutil.which(program) is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    redis_port, web_port = free_port(), free_port()
    (tmp_path / "redis").mkdir()
    services = Composed(tmp_path, postgres_url, redis_port, web_port)
    options = [option.replace("/run/secrets/", f"{tmp_path}/secrets/") for option in options]
    here = ["--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(tmp_path / "redis")]
    redis = subprocess.Popen([program, *options, *here], stdout=subprocess.DEVNULL)
    yield services
    for process in services.processes.values():
        process.kill()
        process.wait()
    redis.terminate()
    redis.wait(30)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


ADD_CHAMPION = """
import sys
from pathlib import Path
from tests.builders.versions import add_champion
add_champion(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_every_command_becomes_healthy_and_a_job_runs_through(composed, tmp_path):
    assert composed.run("migrate", *SERVICES["migrate"]["command"]).returncode == 0
    for name in LONG_RUNNING:
        composed.start(name)
    for name in LONG_RUNNING:
        composed.wait_until_healthy(name)

    champion = [sys.executable, "-c", ADD_CHAMPION, tmp_path]
    subprocess.run(champion, env=composed.env("migrate"), check=True, timeout=60)
    added = composed.run("migrate", "users", "add", "ann", "--no-password")
    assert added.returncode == 0, added.stderr
    token = composed.run("migrate", "tokens", "new", "ann").stdout.strip()

    from PIL import Image

    (tmp_path / "scans").mkdir()
    for number in range(5):
        Image.new("L", (300, 300), number * 40).save(tmp_path / "scans" / f"{number}.png")
    env = composed.env("web") | {"CTBATCH_SERVER": f"http://127.0.0.1:{composed.web_port}", "CTBATCH_TOKEN": token}
    submit = [sys.executable, "-m", "cli", "submit", tmp_path / "scans", "--wait", "--json"]
    submitted = subprocess.run(submit, env=env, capture_output=True, text=True, timeout=120)
    assert submitted.returncode == 0, submitted.stderr
    counts = json.loads(submitted.stdout.splitlines()[-1])["counts"]
    assert (counts["received"], counts["predicted"], counts["open"]) == (5, 5, 0)

    assert composed.stop() == dict.fromkeys(LONG_RUNNING, 0)


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed (Debian: redis-tools)")
def test_broker_asks_for_its_password(composed):
    url = (composed.folder / "secrets/broker_url").read_text()
    kind, *check = SERVICES["redis"]["healthcheck"]["test"]
    check = [word.replace("$$", "$").replace("/run/secrets/", f"{composed.folder}/secrets/") for word in check]
    assert kind == "CMD"
    for _ in range(50):
        if subprocess.run(check, check=False).returncode == 0:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the broker's own health check never passed")
    without = re.sub(r"//.*@", "//", url)
    answer = subprocess.run(["redis-cli", "-u", without, "ping"], capture_output=True, text=True, check=False)
    assert "NOAUTH" in answer.stdout + answer.stderr


@pytest.mark.slow
@pytest.mark.alone
def test_check_of_a_missing_service_fails(composed):
    assert composed.run("migrate", *SERVICES["migrate"]["command"]).returncode == 0
    for name in ("web", "sweep"):
        assert composed.check(name).returncode == 4
    assert "does not answer" in composed.check("ingest").stderr
