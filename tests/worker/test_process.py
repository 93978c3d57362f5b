"""What a worker process does at its start."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]

# The process that hears Celery's signal has another parent than the one that prepared, as if that one had died.
ORPHAN = """
import os
from celery import signals
from worker.process import prepare

prepare("test")
if os.fork() == 0:
    if os.fork() == 0:
        signals.worker_process_init.send(None)
        print("lives on", flush=True)
    else:
        os.wait()
    os._exit(0)
os.wait()
"""


def test_worker_process_whose_parent_died_before_its_start_ends_at_once() -> None:
    command = [sys.executable, "-c", ORPHAN]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


SURVIVES = """
import os, signal
from celery import signals
from worker.process import prepare

prepare("test")
if os.fork() == 0:
    signals.worker_process_init.send(None)
    os.kill(os.getpid(), signal.SIGTERM)
    print("works on", flush=True)
    os._exit(0)
os.wait()
"""


def test_process_of_a_worker_leaves_it_to_its_parent_when_to_stop() -> None:
    """systemd sends SIGTERM to all processes of a service at once."""
    command = [sys.executable, "-c", SURVIVES]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout == "works on\n"


TERMINATED = """
import os, signal, time
from celery import signals
from worker.process import prepare

prepare("test")
begun = os.pipe()
child = os.fork()
if child == 0:
    signals.worker_process_init.send(None)
    os.write(begun[1], b"1")
    time.sleep(600)
os.read(begun[0], 1)
os.kill(child, signal.SIGTERM)
os.wait()
"""


def test_process_of_a_worker_ends_when_its_parent_terminates_it() -> None:
    """Celery does this after a second Ctrl-C."""
    subprocess.run([sys.executable, "-c", TERMINATED], cwd=PROJECT, timeout=60, check=True)


STOPS = """
import os
from celery import signals
from worker.heartbeat import stop_request
from worker.process import prepare

prepare("test")
begun, asked = os.pipe(), os.pipe()
if os.fork() == 0:
    before = stop_request.is_set()
    os.write(begun[1], b"1")
    os.read(asked[0], 1)
    print(before, stop_request.is_set(), flush=True)
    os._exit(0)
os.read(begun[0], 1)
signals.worker_shutting_down.send(None)
os.write(asked[1], b"1")
os.wait()
"""


def test_processes_of_a_worker_learn_that_it_is_asked_to_stop() -> None:
    command = [sys.executable, "-c", STOPS]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True"]


GIVES_WAY = """
import os
from pathlib import Path
from worker.linux_process import come_after_others

come_after_others(7)
group = Path("/proc/self/autogroup")
print(os.getpriority(os.PRIO_PROCESS, 0), group.read_text().split()[-1] if group.exists() else 7)
"""


def test_process_that_comes_after_others_does_so_across_sessions_too() -> None:
    command = [sys.executable, "-c", GIVES_WAY]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, start_new_session=True)
    assert ran.stdout.split() == ["7", "7"]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["worker.app", "training.app", "web.asgi"])
def test_files_of_a_process_are_for_its_user_alone(module: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        f"import os, {module}; open('new', 'w'); print(oct(os.stat('new').st_mode & 0o777))",
    ]
    environ = {"CTBATCH_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environ, umask=0o022, capture_output=True, text=True)
    assert ran.stdout == "0o600\n", ran.stderr
