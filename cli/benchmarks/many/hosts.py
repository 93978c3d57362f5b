"""Simulates hosts on this machine. A host is a network namespace. A bridge connects the hosts only with each other."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.errors import UsageError

NETWORK = "10.77.0"  # known only in these namespaces
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Host:
    """A network namespace with an IP address."""

    name: str
    namespace: str
    address: str

    def command(self, words: Sequence[object]) -> list[str]:
        """Return the command line that runs the command `words` on this host."""
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def core_seconds(self) -> float:
        """Return the processor time of the processes on this host, and of the ended children that they waited for."""
        pids = _ip("netns", "pids", self.namespace).split()
        return sum(_seconds(int(pid)) for pid in pids)


def _seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


@contextmanager
def network(names: Sequence[str]) -> Iterator[dict[str, Host]]:
    """Make a host for each name, and yield the hosts by name. Remove them at the end of the block.

    Raises:
        UsageError: the user may not make hosts, or `ip` is not installed.
    """
    if os.getuid() != 0 or shutil.which("ip") is None:
        raise UsageError("hosts are made of network namespaces; run this as root, with iproute2 installed")
    tag = f"ctb{os.getpid()}"
    switch = f"{tag}-switch"
    made: list[str] = []
    try:
        made.append(switch)
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        hosts = {}
        for number, name in enumerate(names, 1):
            host = Host(name, f"{tag}-{name}", f"{NETWORK}.{number}")
            made.append(host.namespace)
            _add(host, switch, number)
            hosts[name] = host
        yield hosts
    finally:
        for namespace in reversed(made):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)  # noqa: S603, S607  we made the name


def _add(host: Host, switch: str, number: int) -> None:
    """Make the namespace of a host, and connect it to the switch."""
    _ip("netns", "add", host.namespace)
    port = f"port{number}"
    _ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
    _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", host.namespace, "link", "set", device, "up")


def _ip(*words: str) -> str:
    result = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)  # noqa: S603, S607  our own words
    if result.returncode:
        raise UsageError(f"hosts cannot be made here: ip {' '.join(words)}: {result.stderr.strip()}")
    return result.stdout
