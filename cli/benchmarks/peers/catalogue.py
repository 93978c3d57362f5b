"""Lists the peers, each with its module, its engine and its environment."""

import sys
from dataclasses import dataclass
from pathlib import Path

from cli.supervisor.roles import PROJECT

ENVIRONMENTS = PROJECT / ".build" / "peers"  # `make peers` makes them


@dataclass(frozen=True)
class Peer:
    """A peer. `module` runs in the environment `environment`, and predicts with `engine`: keras or int8."""

    name: str
    module: str
    environment: str
    engine: str
    needs_broker: bool = False

    @property
    def python(self) -> Path:
        """Return the interpreter of the peer's environment.

        If `environment` is empty, return the interpreter of this process.
        """
        return ENVIRONMENTS / self.environment / "bin" / "python" if self.environment else Path(sys.executable)


_MODULES = (
    ("notebook", "notebook", ("keras",)),
    ("celery", "celery_tasks", ("keras",)),
    ("bentoml", "bentoml_service", ("keras", "int8")),
    ("litserve", "litserve_api", ("keras", "int8")),
    ("ray", "ray_data", ("keras", "int8")),
)
PEERS = {
    peer.name: peer
    for name, module, engines in _MODULES
    for engine in engines
    for peer in [Peer(f"{name}-{engine}", f"cli.benchmarks.peers.{module}", name, engine, name == "celery")]
}
"""Every peer by its name, such as `bentoml-int8`."""
