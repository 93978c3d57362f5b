"""Tunes the engine of the champion on this machine, and reads earlier tunings."""

from pathlib import Path

from cli.errors import CommandError, NotFoundOrDenied, UsageError
from cli.local.session import reading
from cli.output import NO_MODEL
from db.database import current
from db.models import ModelVersion
from db.registry import champions, versions
from db.registry.manifest import FLOAT_FILE, INT8_FILE
from worker.engines.load import EngineUnproven, load_engine
from worker.engines.package import PackageError, read_package
from worker.engines.tuning import Tuning, kept_tuning, tune

FILES = {"int8": INT8_FILE, "bf16": FLOAT_FILE, "f32": FLOAT_FILE}


def champion_version() -> ModelVersion:
    """Return the champion.

    Raises:
        NotFoundOrDenied: no model version is the champion.
    """
    with reading() as session:
        champion = champions.champion(session)
    if champion is None:
        raise NotFoundOrDenied(f"no model version is the champion; {NO_MODEL}")
    return champion


def tune_engine(folder: Path) -> tuple[str, Tuning]:
    """Tune the engine that serves a package on this machine. Return the engine's name and the tuning.

    Raises:
        UsageError: the package cannot be used here, or the engine is not OpenVINO.
    """
    settings = current()
    threads = settings.engine_threads or None
    try:
        package = read_package(folder)
        engine = load_engine(folder, settings.engine, threads=threads, package=package).engine
    except (PackageError, EngineUnproven) as error:
        raise UsageError(f"no engine of the model can be used here: {error}; name another model package") from error
    if not engine.name.startswith("openvino"):
        raise UsageError(f"the engine here is {engine.name}; only OpenVINO's can be tuned")
    file = FILES[engine.precision]
    return engine.name, tune(folder / file, package.files[file], engine.precision, threads)


def tunings_of(version: ModelVersion) -> dict[str, Tuning]:
    """Return the tunings of a model version on this machine, by engine name."""
    threads = current().engine_threads or None
    kept = {
        f"openvino-{precision}": kept_tuning(version.files[file], precision, threads)
        for precision, file in FILES.items()
        if file in version.files
    }
    return {name: tuning for name, tuning in kept.items() if tuning is not None}


def tune_champion() -> tuple[str, Tuning]:
    """Tune the champion's engine, as `tune_engine` does.

    Raises:
        NotFoundOrDenied: there is no champion.
        UsageError: as for `tune_engine`.
        CommandError: the champion's files cannot be read.
    """
    from db.storage import FileDamaged, FileMissing

    try:
        return tune_engine(versions.package_folder(champion_version()))
    except (FileMissing, FileDamaged) as error:
        raise CommandError("a file of the champion is missing or damaged; import or promote another model") from error


def describe(name: str, tuning: Tuning) -> str:
    """Return a tuning in one line for people."""
    speed = f"{tuning.slices_per_second} slices/s"
    return f"{name}: {tuning.streams} streams, {tuning.threads} threads, {tuning.request} slices a request; {speed}"
