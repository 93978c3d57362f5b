"""`ctbatch up` as people run it: one start, real processes, a job through all of them, kills, and an orderly end."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from cli.commands.up import announce, emit
from cli.local.access import LocalAccess
from db import database as base
from db.settings import Settings
from tests.cli.conftest import use_link

PROJECT = Path(__file__).parents[2]


class Up:
    """A running `ctbatch up` with a home of its own."""

    def __init__(self, folder: Path, *options: str, **env: str) -> None:
        foreign = ("CTBATCH_", "DATABASE_URL", "CELERY_BROKER_URL", "PORT")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.home = folder / "home"
        self.env = kept | {"PYTHONPATH": str(PROJECT), "CTBATCH_HOME": str(self.home), "CTBATCH_ENGINE": "fake"} | env
        self.log = folder / "up.log"
        with self.log.open("wb") as log:
            argv = [sys.executable, "-m", "cli", "up", "--port", "0", *options]
            self.process = subprocess.Popen(argv, env=self.env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)

    def wait_until_ready(self) -> None:
        self.eventually(lambda: self.local.get("pid") == self.process.pid, "ready")

    def eventually(self, condition, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"never {what}:\n{self.log.read_text()}"
            time.sleep(0.1)

    @property
    def local(self) -> dict[str, object]:
        path = self.home / "run/local.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def run(self, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "cli", *map(str, words)]
        return subprocess.run(argv, env=self.env | env, capture_output=True, text=True, timeout=120)

    def descendants(self) -> dict[int, str]:
        """Every process that stands in this home (all that `up` starts do), by its command line."""
        commands = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (entry / "cwd").readlink().is_relative_to(self.home):
                        commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
        return commands

    def main_process(self, words: str) -> int:
        """The oldest process whose command line has these words."""
        return min(pid for pid, line in self.descendants().items() if words in line)


ADD_VERSION = """
import sys
from pathlib import Path
from tests.builders.versions import add_version
add_version(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    running = Up(tmp_path_factory.mktemp("up"))
    running.wait_until_ready()
    added = [sys.executable, "-c", ADD_VERSION, running.home]
    subprocess.run(added, env=running.env, check=True, timeout=60)
    assert running.run("models", "promote", "fake/1", "--reason", "test").returncode == 0
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture
def start(tmp_path):
    """Start `ctbatch up` in this test's folder. What still runs after the test is killed."""
    started = []

    def start(**env: str) -> Up:
        started.append(Up(tmp_path, **env))
        started[-1].wait_until_ready()
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(6):
        Image.new("L", (300, 280), number * 40).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes((folder / "5.png").read_bytes()[:100])
    return folder


def test_up_prints_its_address_and_the_notice(up):
    printed = up.log.read_text()
    assert f"up        | ctbatch is ready at {up.local['url']}" in printed
    assert "up        | Research use only, not for diagnosis." in printed


def test_files_of_the_home_are_private(up):
    for name, mode in (("", 0o700), ("run", 0o700), ("run/local.json", 0o600), ("secret_key", 0o600)):
        assert stat.S_IMODE((up.home / name).stat().st_mode) == mode, name


def test_the_sign_in_link_works_once(up):
    line = next(line for line in up.log.read_text().splitlines() if "/sign-in/" in line)
    link = line.split()[-1]
    with httpx.Client(follow_redirects=True) as browser:
        assert use_link(browser, link).status_code == 200
        assert "local" in browser.get(f"{up.local['url']}/").text
    with httpx.Client(follow_redirects=True) as another:
        assert another.get(link).status_code == 401
        assert another.get(f"{up.local['url']}/", follow_redirects=False).status_code in (302, 303, 401)


def test_no_proxy_is_trusted_unless_it_is_set(up):
    """Anybody may send these headers from this machine."""
    page = httpx.get(f"{up.local['url']}/sign-in", headers={"X-Forwarded-Proto": "https"})
    assert "Secure" not in page.headers["Set-Cookie"]


@pytest.mark.slow
def test_another_sign_in_link_can_be_made(up):
    link = up.run("users", "link", "local").stdout.strip()
    with httpx.Client(follow_redirects=True) as browser:
        assert use_link(browser, link).url.path == "/jobs"


@pytest.mark.slow
def test_a_second_up_in_the_same_home_is_refused(up):
    second = up.run("up", "--port", "0")
    assert second.returncode == 4
    assert f"ctbatch is already running in {up.home} at {up.local['url']}" in second.stderr


@pytest.mark.slow
def test_taken_port_is_reported_in_one_line(up, tmp_path):
    port = str(up.local["url"]).rpartition(":")[2]
    second = up.run("up", "--port", port, "--home", tmp_path / "other")
    assert second.returncode == 4
    assert second.stderr == f"Error: port {port} is taken; choose another with --port, or --port 0 for any free one\n"


@pytest.mark.parametrize(
    "role",
    [
        *("web", "inference", "sweep"),
        *(pytest.param(role, marks=pytest.mark.slow) for role in ("ingest", "training", "evaluation")),
    ],
)
def test_check_of_every_role_succeeds(up, role):
    assert up.run("worker", role, "--check").stdout == f"{role} is healthy\n"


def test_check_of_web_goes_past_a_proxy(up):
    assert up.run("worker", "web", "--check", http_proxy="http://127.0.0.1:1").returncode == 0


def test_a_job_runs_through_all_of_it(up, scans):
    submitted = up.run("submit", scans, "--wait", "--json", "--name", "the test's scans")
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout.splitlines()[-1])
    counts = job["counts"]
    assert (job["state"], counts["received"], counts["predicted"], counts["rejected"]) == ("finished", 7, 6, 1)
    assert up.run("jobs", "wait", job["id"]).returncode == 0
    assert job["id"] in up.run("jobs", "ls").stdout

    rows = json.loads(up.run("results", job["id"], "--json").stdout)["results"]
    assert {row["name"]: row["state"] for row in rows} == {f"scans/{n}.png": "predicted" for n in range(6)} | {
        "scans/broken.png": "rejected"
    }
    table = up.run("results", job["id"], "--state", "rejected").stdout.splitlines()
    broken = ["scans/broken.png", "scans.tar", "0", "", "rejected", "truncated"]
    assert [line.split("\t")[1:7] for line in table[1:]] == [broken]
    csv = up.run("results", job["id"], "--format", "csv").stdout
    assert csv.count(".png") == 7

    assert up.run("jobs", "cancel", job["id"]).returncode == 2
    assert json.loads(up.run("jobs", "retry", job["id"], "--json").stdout)["retried"] == 0


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("words", ["gunicorn", "-Q inference", "-Q ingest", "worker.sweep", "unixsocket:"])
def test_a_killed_process_comes_back_and_work_goes_on(up, scans, words):
    before = up.main_process(words)
    os.kill(before, signal.SIGKILL)
    up.eventually(lambda: any(words in line for pid, line in up.descendants().items() if pid != before), "restarted")
    submitted = up.run("submit", scans, "--wait", "--json")
    assert submitted.returncode == 0, submitted.stderr
    assert json.loads(submitted.stdout.splitlines()[-1])["counts"]["predicted"] == 6


@pytest.mark.slow
def test_ctrl_c_stops_everything_and_revokes_the_token(up):
    token = up.local["token"]
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert up.descendants() == {}
    assert not (up.home / "run/local.json").exists()
    assert up.run("jobs", "ls").returncode == 4
    assert str(token) not in up.run("tokens", "ls", "local", "--json").stdout
    assert json.loads(up.run("tokens", "ls", "local", "--json").stdout) == []


@pytest.mark.slow
@pytest.mark.alone
def test_kill_9_of_up_leaves_nothing_behind(start):
    running = start()
    assert len(running.descendants()) >= 8
    running.process.kill()
    running.process.wait()
    deadline = time.monotonic() + 20
    while left := running.descendants():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert running.run("jobs", "ls").returncode == 4

    again = start()
    again.process.terminate()
    assert again.process.wait(60) == 0


def test_disk_short_of_its_reserve_is_announced(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    access = LocalAccess.prepare()
    announce("http://127.0.0.1:1", access)
    assert "CTBATCH_RESERVE_BYTES" not in capsys.readouterr().out
    base.use(settings.model_copy(update={"reserve_bytes": 2**62}))
    announce("http://127.0.0.1:1", access)
    assert "CTBATCH_RESERVE_BYTES" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.alone
def test_up_becomes_ready_though_the_disk_is_short_of_its_reserve(start):
    running = start(CTBATCH_RESERVE_BYTES=str(2**62))
    running.eventually(lambda: "uploads are refused" in running.log.read_text(), "announced")
    assert running.run("jobs", "ls").returncode == 0
    running.process.terminate()
    assert running.process.wait(60) == 0


def test_full_disk_loses_lines_and_keeps_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        for _ in range(200):
            emit("web", 100 * "x")
        assert sys.stdout is full
        with contextlib.suppress(OSError):
            full.close()


def test_closed_terminal_is_written_to_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = os.openpty()
    os.close(controller)
    with os.fdopen(terminal, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        emit("web", "a line")
        emit("web", "another")
        assert sys.stdout is not closed
        with contextlib.suppress(OSError):
            closed.close()
