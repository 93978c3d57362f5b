"""`ctbatch demo`, whole: it classifies its archive with the demo model, says what came of it, and serves on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import use_link

PROJECT = Path(__file__).parents[2]


def environment(home: Path) -> dict[str, str]:
    foreign = ("CTBATCH_", "DATABASE_URL", "CELERY_BROKER_URL", "PORT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"PYTHONPATH": str(PROJECT), "CTBATCH_HOME": str(home)}


def standing_in(home: Path) -> list[str]:
    """The command lines of all processes that stand in this home."""
    commands = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(home):
                commands.append((entry / "cmdline").read_bytes().decode())
        except OSError:
            continue
    return commands


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1500)
def test_the_demo_runs_to_its_summary_and_serves_on(tmp_path):
    home = tmp_path / "home"
    command = [sys.executable, "-m", "cli", "demo", "--port", "0"]
    whole = subprocess.run(
        [*command, "--exit"], env=environment(home), cwd=tmp_path, capture_output=True, text=True, timeout=1200
    )
    assert whole.returncode == 0, whole.stderr
    counts = dict(line.strip().split("\t")[:2] for line in whole.stdout.splitlines() if line.count("\t") == 1)
    assert int(counts["received"]) == int(counts["predicted"]) + int(counts["rejected"]) > 0
    assert int(counts["rejected"]) > 0
    assert "knows nothing about patients" in whole.stderr
    assert "Research use only, not for diagnosis." in whole.stderr
    assert standing_in(home) == []
    shown = subprocess.run(
        [sys.executable, "-m", "cli", "models", "show", "demo/1", "--json"],
        env=environment(home), cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(shown.stdout)["metrics"]["accuracy"] >= 0.9

    log = tmp_path / "demo.log"
    with log.open("w") as output:
        serving = subprocess.Popen(command, env=environment(home), cwd=tmp_path, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while "still serving" not in log.read_text():
            assert serving.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        link = re.findall(r"http\S+/sign-in/\S+", log.read_text())
        with httpx.Client(follow_redirects=True) as browser:
            page = use_link(browser, link[-1])
        assert page.status_code == 200
        assert "/jobs/" in page.url.path
        assert "demo archive" in page.text
        serving.send_signal(signal.SIGINT)
        assert serving.wait(60) == 0
    finally:
        serving.kill()
        serving.wait()
    assert standing_in(home) == []
