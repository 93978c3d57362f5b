"""The engine of a model version: its package is copied to this machine, and a copy that is damaged is made anew."""

from db import registry
from db.base import current
from db.models import ModelVersion
from worker.engines.base import Engine, load_engine
from worker.engines.package import Package, PackageError, read_package


def engine_of(version: ModelVersion) -> tuple[Package, Engine]:
    """The version's package, and the engine that the settings choose of it.

    Raises PackageError (the next call makes the copy anew), storage's FileMissing and FileDamaged, and whatever keeps
    an engine from being loaded.
    """
    folder, settings = registry.package_folder(version), current()
    try:
        package = read_package(folder)
        return package, load_engine(folder, settings.engine, threads=settings.engine_threads or None)
    except PackageError:
        registry.drop_package_folder(version)
        raise
