"""The supervisor, over real processes: it restarts the dead, stops in order and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]

# `first` has a child of its own. `second` starts when `first` is ready and obeys SIGTERM, `third` ignores it. Each is
# ready when its process id stands in a file.
CODE = {
    "first": "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print('hello', flush=True)",
    "second": "signal.signal(signal.SIGTERM, lambda *_: (print('goodbye', flush=True), sys.exit(0)))",
    "third": "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "broken": "sys.exit(7)",
    "slow": "time.sleep(600)",
}
DRIVER = """
import errno, os, signal, subprocess, sys
from pathlib import Path
from cli.supervisor import supervisor as module
from cli.supervisor.child import Process
from cli.supervisor.supervisor import Supervisor

def process(role, **options):
    code = f"import os, signal, subprocess, sys, time\\n{CODE[role]}\\n" \\
           f"print(os.getpid(), file=open('{role}.ready', 'w'), flush=True); time.sleep(600)"
    ready = folder / f"{role}.ready"
    return Process(role, [sys.executable, "-c", code], os.environ, lambda: ready.exists() and ready.read_text(),
                   before_start=lambda _failed: ready.unlink(missing_ok=True), **options)

signal.signal(signal.SIGHUP, signal.SIG_IGN if "nohup" in sys.argv else signal.SIG_DFL)
folder = Path(sys.argv[1])
processes = [process("first", starts=0, stops=1), process("second", stops=0)]
if "stubborn" in sys.argv:
    processes.append(process("third", stops=0, grace_seconds=600))
if "broken" in sys.argv:
    processes.append(process("broken"))
if "slow" in sys.argv:
    module.SLOW_START_SECONDS = 0.1
    processes.append(process("slow"))
full = folder / "full"
def emit(role, line):
    print(f"{role}: {line}", flush=True)
    if full.exists():
        raise OSError(errno.ENOSPC, "No space left on device")

def on_stop():
    print("on_stop", flush=True)
    if full.exists():
        raise OSError(errno.EROFS, "Read-only file system")

supervisor = Supervisor(processes, emit, folder)
start_process, starts = subprocess.Popen, []
def start(*given, **named):
    starts.append(given)
    if "third-start-fails" in sys.argv and len(starts) == 3 or "no-start" in sys.argv:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return start_process(*given, **named)

subprocess.Popen = start
supervisor.run(lambda: print("READY", flush=True), on_stop)
"""


class Run:
    """One supervisor process, its output as it comes, and the processes that it started."""

    def __init__(self, folder: Path, *words: str) -> None:
        script = folder / "driver.py"
        script.write_text(f"CODE = {CODE!r}\n{DRIVER}")
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, folder, *words],
                env=os.environ | {"PYTHONPATH": str(PROJECT), "CTBATCH_TEST_RUN": str(folder)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.folder = folder
        self.mark = f"CTBATCH_TEST_RUN={folder}".encode()

    def output(self) -> str:
        return self.log.read_text()

    def descendants(self) -> set[int]:
        """Every process that carries this run's mark, but the supervisor and the dead."""
        pids = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                try:
                    if self.mark in (entry / "environ").read_bytes().split(b"\0"):
                        pids.add(int(entry.name))
                except OSError:
                    continue
        return pids

    def pid(self, role: str) -> int:
        """The id that the process of this role wrote when it was ready."""
        return int((self.folder / f"{role}.ready").read_text())


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def begin(*words: str) -> Run:
        run = Run(tmp_path, *words)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()
        for pid in run.descendants():
            os.kill(pid, signal.SIGKILL)


def ready(run: Run) -> Run:
    eventually(lambda: "READY" in run.output().splitlines(), "all processes ready")
    return run


def test_output_carries_the_role(start: Callable[..., Run]) -> None:
    run = ready(start())
    assert "first: hello" in run.output().splitlines()


def test_kill_9_of_the_supervisor_ends_what_it_started(start: Callable[..., Run]) -> None:
    run = ready(start())
    children = {run.pid("first"), run.pid("second")}
    run.process.kill()
    run.process.wait()
    eventually(lambda: not children & run.descendants(), "the children end with the supervisor")


@pytest.mark.slow
def test_killed_child_is_restarted_and_its_own_children_are_killed(start: Callable[..., Run]) -> None:
    run = ready(start())
    before = run.descendants()
    grandchild = (before - {run.pid("first"), run.pid("second")}).pop()
    os.kill(run.pid("first"), signal.SIGKILL)
    eventually(lambda: run.output().count("first: hello") == 2, "the child runs again")
    assert "up: first ended by signal 9; starting it again in 0.5 s" in run.output()
    assert grandchild not in run.descendants()
    assert run.pid("second") in run.descendants()
    eventually(lambda: len(run.descendants()) == len(before), "as many processes as before")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_stops_in_order_and_exits_0(start: Callable[..., Run], number: signal.Signals) -> None:
    run = ready(start())
    run.process.send_signal(number)
    assert run.process.wait(20) == 0
    assert not run.descendants()
    lines = run.output().splitlines()
    assert lines.index("on_stop") < lines.index("second: goodbye")


def test_closed_terminal_does_not_stop_what_ignores_it(start: Callable[..., Run]) -> None:
    run = ready(start("nohup"))
    run.process.send_signal(signal.SIGHUP)
    os.kill(run.pid("first"), signal.SIGKILL)
    eventually(lambda: run.output().count("first: hello") == 2, "the child runs again")
    assert "on_stop" not in run.output()


def test_slow_start_names_what_is_waited_for(start: Callable[..., Run]) -> None:
    run = start("slow")
    eventually(lambda: "slow; the output above" in run.output(), "it says so")
    run.process.terminate()
    assert run.process.wait(20) == 0


def test_a_second_interruption_stops_a_stubborn_child(start: Callable[..., Run]) -> None:
    run = ready(start("stubborn"))
    run.process.send_signal(signal.SIGINT)
    eventually(lambda: "stopping" in run.output(), "it stops")
    assert run.process.poll() is None
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(20) == 0
    assert "third did not end in time and is killed" in run.output()
    assert not run.descendants()


@pytest.mark.slow
def test_a_child_that_cannot_start_stops_the_rest(start: Callable[..., Run]) -> None:
    run = start("broken")
    assert run.process.wait(20) != 0
    assert "broken ended with code 7 each time it was started" in run.output()
    assert "READY" not in run.output().splitlines()
    assert not run.descendants()


def test_line_that_cannot_be_written_ends_no_process(start: Callable[..., Run]) -> None:
    run = ready(start())
    (run.folder / "full").touch()
    second = run.pid("second")
    os.kill(run.pid("first"), signal.SIGKILL)
    eventually(lambda: run.output().count("first: hello") == 2, "the child runs again")
    assert run.pid("second") == second
    run.process.terminate()
    run.process.wait(20)
    lines = run.output().splitlines()
    assert lines.index("on_stop") < lines.index("second: goodbye")
    assert not run.descendants()


@pytest.mark.slow
def test_process_that_cannot_be_started_again_is_tried_later(start: Callable[..., Run]) -> None:
    run = ready(start("third-start-fails"))
    second = run.pid("second")
    os.kill(run.pid("first"), signal.SIGKILL)
    eventually(lambda: run.output().count("first: hello") == 2, "the child runs again")
    assert "first could not start (Resource temporarily unavailable); starting it again in 1 s" in run.output()
    assert run.pid("second") == second
    assert run.process.poll() is None


@pytest.mark.slow
def test_process_that_can_never_be_started_stops_the_rest(start: Callable[..., Run]) -> None:
    run = start("no-start")
    assert run.process.wait(20) != 0
    assert "first could not start (Resource temporarily unavailable) each time" in run.output()
    assert not run.descendants()
