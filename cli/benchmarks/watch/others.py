"""Measures how much processor time other processes took during a benchmark (from /proc). Too much spoils the result."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

from cli.errors import Unavailable

MOST_TAKEN = 0.05  # share of the machine's processor time; with more, a result may not repeat within 10 %
NAMED, LEAST_NAMED = 5, 0.001  # at most 5 other processes are named, each with at least this share
TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
KERNEL = "kernel threads"
SHORT = "processes that came or went"

even_if_disturbed = click.option(
    "--even-if-disturbed",
    is_flag=True,
    help=f"Print the values, with a mark, even if other processes took more than {MOST_TAKEN:.0%} of the processor.",
)


@dataclass(frozen=True)
class ProcessTime:
    """The core-seconds of a process so far, and of its ended children."""

    pid: int
    parent: int
    name: str
    seconds: float
    of_children: float


@dataclass
class Disturbance:
    """The share of the machine's processor time that other processes took, in all and by name (the largest first)."""

    share: float = 0.0
    by_name: dict[str, float] = field(default_factory=dict)
    own_seconds: float = 0.0
    """Core-seconds of this process and of all that it started."""

    @property
    def spoils(self) -> bool:
        """Return whether other processes took so much that the measured values are not a result."""
        return self.share > MOST_TAKEN

    def __str__(self) -> str:
        names = ", ".join(f"{name} {share:.1%}" for name, share in self.by_name.items())
        return f"{self.share:.1%} of the processor" + (f" ({names})" if names else "")


def raise_if_spoilt(disturbance: Disturbance, shown: bool) -> None:
    """Refuse the measured values if other processes disturbed the run. If `shown`, accept the values, which get a mark.

    Raises:
        Unavailable: other processes took more than `MOST_TAKEN`, and `shown` is False.
    """
    if disturbance.spoils and not shown:
        raise Unavailable(
            f"this is not a result: other processes took {disturbance}, and at most {MOST_TAKEN:.0%} is accepted;"
            " stop them and measure again, or add --even-if-disturbed to see the values"
        )


def marks(disturbance: Disturbance) -> dict[str, object]:
    """Return two entries for a report: whether other processes disturbed the run, and what they took."""
    return {"disturbed": disturbance.spoils, "others": str(disturbance)}


@contextmanager
def watched() -> Iterator[Disturbance]:
    """Measure other processes during the block. The yielded disturbance is filled in at the end of the block."""
    disturbance = Disturbance()
    began, busy, before = time.monotonic(), _busy_seconds(), _processes()
    yield disturbance
    after, busy = _processes(), _busy_seconds() - busy
    whole = (time.monotonic() - began) * (os.cpu_count() or 1)
    own = _tree_seconds(after) - _tree_seconds(before)
    others = _others(before, after)
    others[SHORT] = max(busy - own - sum(others.values()), 0.0)
    largest = sorted(((seconds / whole, name) for name, seconds in others.items()), reverse=True)[:NAMED]
    disturbance.share = max(busy - own, 0.0) / whole
    disturbance.by_name = {name: share for share, name in largest if share >= LEAST_NAMED}
    disturbance.own_seconds = own


def tree(processes: dict[int, ProcessTime], root: int) -> set[int]:
    """Return the ids of the process `root` and of all processes below it, among `processes`."""
    below: dict[int, list[int]] = {}
    for one in processes.values():
        below.setdefault(one.parent, []).append(one.pid)
    found, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting += below.get(pid, [])
    return found


def descendants(root: int) -> set[int]:
    """Return the ids of all processes that are below the process `root` now."""
    return tree(_processes(), root) - {root}


def own_processes() -> set[int]:
    """Return the ids of this process and of all processes that are below it now."""
    return tree(_processes(), os.getpid())


def _tree_seconds(processes: dict[int, ProcessTime]) -> float:
    own = tree(processes, os.getpid()) & processes.keys()
    return sum(processes[pid].seconds + processes[pid].of_children for pid in own)


def _others(before: dict[int, ProcessTime], after: dict[int, ProcessTime]) -> dict[str, float]:
    """Return the core-seconds that other processes used between `before` and `after`, by the name of the process.

    Count only processes that lived at both times and are not below this process. Leave out the time of their ended
    children. When a child ends, its parent gets all the time of the child, also the time before the first look.
    """
    own = tree(after, os.getpid())
    seconds: dict[str, float] = {}
    for pid in (before.keys() & after.keys()) - own:
        spent = after[pid].seconds - before[pid].seconds
        seconds[after[pid].name] = seconds.get(after[pid].name, 0.0) + spent
    return seconds


def _processes() -> dict[int, ProcessTime]:
    """Return every process by its id."""
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (one := _read(int(entry.name))) is not None:
            found[one.pid] = one
    return found


def _read(pid: int) -> ProcessTime | None:
    """Return a process, or None if it has ended. The fields are those of proc_pid_stat(5)."""
    try:
        head, _, rest = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
    except OSError:
        return None
    fields = rest.split()
    parent = int(fields[1])
    user, system, child_user, child_system = (int(ticks) / TICKS for ticks in fields[11:15])
    name = KERNEL if parent == 2 or pid == 2 else head.partition("(")[2]
    return ProcessTime(pid, parent, name, user + system, child_user + child_system)


def _busy_seconds() -> float:
    """Return the core-seconds for which all cores together were not idle, by proc_stat(5).

    Time that the host of a virtual machine took away (steal) counts as not idle.
    """
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, (PROC / "stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS
