"""Chooses an engine: the quickest precision that passes its proof on this machine."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from db.database import current, session_scope
from db.models import ModelVersion
from db.registry import engine_proofs, versions
from db.registry.keras_safety import HarmfulModel, check_keras_archive
from db.registry.manifest import FLOAT_FILE, INT8_FILE, KERAS_FILE, Package
from db.registry.proof_file import PROOF_FILE, BadProof
from worker.engines.devices import has_bfloat16, has_gpu
from worker.engines.interface import Engine
from worker.engines.package import PackageError, read_package
from worker.engines.proof import Proof, ProofResult, exact_by_itself, failed, own_proof, prove, read_proof
from worker.hdf5 import check_weights

log = logging.getLogger(__name__)

Build = Callable[[], Engine]


class EngineAbsent(PackageError):
    """The package lacks a file that the chosen engine needs, or this machine lacks the engine's library."""


class EngineUnproven(Exception):
    """No engine of this package passes its proof on this machine: the answers differ from the known answers."""

    def __init__(self, results: list[ProofResult]) -> None:
        super().__init__("; ".join(result.text for result in results))
        self.results = results


@dataclass(frozen=True)
class Proven:
    """An engine that may predict. `results`: the proofs of all engines that were tried. `engine` comes last."""

    engine: Engine
    results: list[ProofResult]


def engine_of(version: ModelVersion, precision: str | None = None, *, serves: bool = False) -> tuple[Package, Engine]:
    """Load the package of a version, and the engine that the settings choose. The engine has passed its proof here.

    `precision` (`f32`, `int8`): load the quickest engine of this precision. `serves`: this process predicts jobs with
    the engine that the settings choose. Only then are the results of the proofs kept in the database, as what serves on
    this host.

    Raises PackageError (the next call copies the package again), storage's FileMissing and FileDamaged, EngineUnproven,
    and any error that an engine raises while it is loaded.
    """
    folder, settings = versions.package_folder(version), current()
    try:
        package = read_package(folder)
    except PackageError:
        versions.drop_package_folder(version)
        raise
    check_keras_file(folder, package)
    threads = settings.engine_threads or None
    if precision is not None:
        choice = "fake" if settings.engine == "fake" else "auto"
        return package, load_engine(folder, choice, threads=threads, package=package, precision=precision).engine
    report = partial(keep_results if serves else log_results, version)
    try:
        proven = load_engine(folder, settings.engine, threads=threads, package=package)
    except EngineAbsent as error:
        results = [failed(settings.engine, str(error))]
        report(results)
        raise EngineUnproven(results) from error
    except EngineUnproven as error:
        report(error.results)
        raise
    report(proven.results)
    return package, proven.engine


def log_results(version: ModelVersion, results: list[ProofResult]) -> None:
    """Log the results of the proofs."""
    for result in results:
        facts = {"model_version": version.label, "engine": result.engine, "difference": result.largest_difference}
        log.log(logging.INFO if result.passed else logging.WARNING, result.text, extra=facts)


def keep_results(version: ModelVersion, results: list[ProofResult]) -> None:
    """Log the results of the proofs, and store them. If the database is unreachable, the engine may still predict."""
    log_results(version, results)
    try:
        with session_scope() as s:
            engine_proofs.record_load(s, version.id, [result.as_dict() for result in results])
    except Exception:
        log.warning("proofs of engines are not stored", exc_info=True)


def check_keras_file(folder: Path, package: Package) -> None:
    """Check a package's Keras file before anything reads it. Do nothing if this machine has no Keras.

    Raises PackageError: the file could run code of its maker, or names other files.
    """
    if KERAS_FILE not in package.files or find_spec("keras") is None:
        return
    try:
        check_keras_archive(folder / KERAS_FILE)
        check_weights(folder / KERAS_FILE)
    except HarmfulModel as error:
        raise PackageError(f"{KERAS_FILE} {error}") from error


def load_engine(
    folder: Path,
    choice: str = "auto",
    *,
    threads: int | None = None,
    package: Package | None = None,
    precision: str | None = None,
) -> Proven:
    """Load the quickest engine of a package that passes its proof on this machine.

    `choice` is one of `db.settings.EngineChoice`. `openvino` tries int8, then bfloat16 if the processor has it, then
    float32. `auto` tries Keras first if this machine has a GPU and Keras, and then does the same as `openvino`. If the
    package has no file for OpenVINO, `auto` tries only Keras. `openvino-int8`, `openvino-bf16` and `openvino-f32` try
    only that precision. `threads`: how many threads the engine uses, or None for one on each core. `package`: the
    manifest, if it has been read already. `precision`: load only engines of this precision. If the package may come
    from a stranger, call `check_keras_file` first.

    Raises PackageError (EngineAbsent among them), EngineUnproven, ValueError (an unknown choice).
    """
    if choice == "fake":
        from worker.engines.fake import FakeEngine

        return Proven(FakeEngine(), [])
    package = package or read_package(folder)
    builds = [one for one in _builds(folder, package, choice, threads) if one[0].endswith(precision or "")]
    if not builds:
        raise EngineAbsent(f"the package {package.name} has no engine that computes in {precision}")
    results: list[ProofResult] = []
    proof = _proof(folder, package, [name for name, _ in builds], threads)
    for name, build in builds:
        try:
            engine = build()
            is_own_source = PROOF_FILE not in package.files and engine.precision == "f32"
            result = exact_by_itself(engine) if proof is None or is_own_source else prove(engine, proof, package)
        except Exception as error:
            log.exception("an engine cannot be used", extra={"engine": name})
            result = failed(name, f"it cannot be run: {type(error).__name__}")
        results.append(result)
        if result.passed:
            return Proven(engine, results)
    raise EngineUnproven(results)


def check_engine(folder: Path, choice: str) -> None:
    """Check that the chosen engine has its files in the package, and its library on this machine. Load nothing.

    Raises PackageError (EngineAbsent among them), ValueError (an unknown choice).
    """
    if choice != "fake":
        list(_builds(folder, read_package(folder), choice, None))


def _proof(folder: Path, package: Package, names: list[str], threads: int | None) -> Proof | None:
    """Return the proof of the package, or make one with the package's float32 file.

    Return None if only float32 engines may serve.

    Raises PackageError, EngineUnproven.
    """
    try:
        proof = read_proof(folder, package)
    except BadProof as error:
        raise PackageError(str(error)) from error
    if proof is not None or all(name.endswith("f32") for name in names):
        return proof
    exact = _exact(folder, package, threads)
    try:
        return own_proof(exact())
    except Exception as error:
        log.exception("the float32 file of a package without a proof cannot be run")
        why = f"its float32 file cannot be run: {type(error).__name__}"
        raise EngineUnproven([failed(name, why) for name in names]) from error


def _builds(folder: Path, package: Package, choice: str, threads: int | None) -> Iterator[tuple[str, Build]]:
    """Yield the name and the constructor of each engine that may serve, quickest first.

    Raises PackageError, ValueError.
    """
    with_openvino = not package.files.keys().isdisjoint({FLOAT_FILE, INT8_FILE})
    with_gpu = has_gpu() and KERAS_FILE in package.files and find_spec("keras") is not None
    if choice == "keras" or (choice == "auto" and (with_gpu or not with_openvino)):
        yield from _keras_builds(folder, package)
        if choice == "auto" and with_openvino:  # tried next, because the driver of the GPU may be broken
            yield from _openvino_builds(folder, package, choice, threads)
    elif choice == "auto" or choice.startswith("openvino"):
        yield from _openvino_builds(folder, package, choice, threads)
    else:
        raise ValueError(f"there is no engine {choice}")


def _keras_builds(folder: Path, package: Package) -> Iterator[tuple[str, Build]]:
    if KERAS_FILE not in package.files:
        raise EngineAbsent(f"the package {package.name} holds no {KERAS_FILE}")
    if find_spec("keras") is None:
        raise EngineAbsent(f"the package {package.name} needs Keras, which comes with training and is not installed")
    from worker.engines.keras import KerasEngine, backend, has_fast_bfloat16, on_gpu

    if on_gpu() and has_fast_bfloat16() and not _fails_in_bfloat16(package):
        yield f"keras-{backend()}-bf16", lambda: KerasEngine(folder, half=True)
    yield f"keras-{backend()}-f32", lambda: KerasEngine(folder)


def _fails_in_bfloat16(package: Package) -> bool:
    """Return whether the exporter measured that bfloat16 differs too much.

    Return False if the exporter did not measure bfloat16.
    """
    parity = package.parity.get("bf16", {})
    return "auc_change" in parity and not parity.get("passed")


def _openvino_builds(folder: Path, package: Package, choice: str, threads: int | None) -> Iterator[tuple[str, Build]]:
    files = {"int8": INT8_FILE, "bf16": FLOAT_FILE, "f32": FLOAT_FILE}
    if choice in ("auto", "openvino"):
        half = bool(package.parity.get("bf16", {}).get("passed")) and has_bfloat16()
        wanted = [name for name in files if files[name] in package.files and (name != "bf16" or half)]
    else:
        wanted = [choice.removeprefix("openvino-")]
        if wanted == ["bf16"] and not has_bfloat16():
            raise EngineAbsent("this processor does not compute in bfloat16")
    missing = [files[name] for name in wanted if files[name] not in package.files]
    if missing or not wanted:
        raise EngineAbsent(f"the package {package.name} holds no {(missing or [FLOAT_FILE])[0]}")
    for name in wanted:
        yield f"openvino-{name}", partial(_openvino, folder / files[name], package.files[files[name]], name, threads)


def _openvino(model: Path, sha256: str, precision: str, threads: int | None) -> Engine:
    """Load a network into OpenVINO, with the settings that `ctbatch tune` found here, or else the default ones."""
    from worker.engines.openvino import OpenVinoEngine
    from worker.engines.tuning import kept_tuning

    if (tuned := kept_tuning(sha256, precision, threads)) is None:
        return OpenVinoEngine(model, precision, threads)
    return OpenVinoEngine(model, precision, tuned.threads, streams=tuned.streams, request=tuned.request)


def _exact(folder: Path, package: Package, threads: int | None) -> Build:
    """Return a function that builds the float32 engine.

    If the package has no proof, the answers of this engine are the proof.
    """
    if FLOAT_FILE in package.files:
        from worker.engines.openvino import OpenVinoEngine

        return lambda: OpenVinoEngine(folder / FLOAT_FILE, "f32", threads)
    if KERAS_FILE in package.files and find_spec("keras"):
        from worker.engines.keras import KerasEngine

        return lambda: KerasEngine(folder)
    raise EngineAbsent(f"the package {package.name} holds neither a proof nor a float32 file to make one with")
