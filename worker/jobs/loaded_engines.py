"""Keeps the engines of the last model versions loaded in this process."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from db.background import HEARTBEAT_SECONDS, wait_for_storage
from db.models import ModelVersion
from db.registry.manifest import Package
from db.registry.versions import package_folder
from db.storage import FileDamaged, FileMissing
from worker.engines.interface import Engine
from worker.engines.load import EngineUnproven, engine_of
from worker.engines.package import PackageError

log = logging.getLogger(__name__)

KEPT_ENGINES = 2  # the engine of the champion, and of the champion before, which older jobs still use


class EngineUnavailable(Exception):
    """The engine cannot be loaded here, or fails on every slice. The slices are not to blame."""


@dataclass(frozen=True)
class Loaded:
    """A model version ready to predict."""

    package: Package
    engine: Engine


Files = frozenset[tuple[str, str]]
"""The names and hashes of a model version's files. A worker knows versions by them, and not by their ids: a database
that was restored from a backup may give the same id to another network."""

kept: OrderedDict[Files, Loaded] = OrderedDict()
"""Engines by the files of their model version; the one used last is at the end."""

_loading = Lock()


def files_of(version: ModelVersion) -> Files:
    """Return the names and hashes of a model version's files. They are the key under which its engine is kept."""
    return frozenset(version.files.items())


def load(version: ModelVersion, alive: Callable[[], None] = lambda: None) -> Loaded:
    """Load the engine of a model version, or return the loaded one.

    `alive` is called again and again while the files are fetched, here or in another thread. If `alive` raises an
    error, loading ends. Raises PackageError, FileMissing, FileDamaged, OSError, EngineUnproven, EngineUnavailable, and
    what `alive` raises.
    """
    with _one_at_a_time(alive):
        files = files_of(version)
        if files not in kept:
            wait_for_storage(lambda: package_folder(version), alive)
            try:
                # without `alive`: if an engine hangs, the heartbeat must end this process
                package, engine = engine_of(version, serves=True)
            except (PackageError, FileMissing, FileDamaged, OSError, EngineUnproven):
                raise
            except Exception as error:
                raise EngineUnavailable(f"the engine of {version.label} cannot be loaded") from error
            kept[files] = Loaded(package, engine)
            log.info("engine loaded", extra={"model_version": version.label, "engine": engine.name})
            if len(kept) > KEPT_ENGINES:
                kept.popitem(last=False)
        kept.move_to_end(files)
        return kept[files]


@contextmanager
def _one_at_a_time(alive: Callable[[], None]) -> Iterator[None]:
    """Wait until no other thread loads an engine, then hold the lock during the block."""
    while not _loading.acquire(timeout=HEARTBEAT_SECONDS):
        alive()
    try:
        yield
    finally:
        _loading.release()
