"""`make demo-model`: trains the demo model that ships with ctbatch, and writes it into the source tree."""

import gzip
import hashlib
import json
import shutil
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from db.registry.demo_model import DEMO_FILE
from db.registry.manifest import FLOAT_FILE, KERAS_FILE, MANIFEST, Package
from training.demo.model import SEED, SHIPPED, make_demo_package

MAX_BYTES = 24_000_000
BUILD = Path(__file__).parents[2] / ".build"
FLOAT_FILES = {KERAS_FILE, FLOAT_FILE, FLOAT_FILE.replace(".xml", ".bin")}
NOT_SHIPPED = {"passed": False, "reason": "not shipped"}
NOTED_EVERY = 20.0  # seconds


def main() -> None:
    """Train the demo model, make its package and pack it. The weights and the whole package stay in `.build`."""
    BUILD.mkdir(exist_ok=True)
    whole, shipped, packed = BUILD / "demo-package", BUILD / "demo-shipped", BUILD / DEMO_FILE.name
    for folder in (whole, shipped):
        shutil.rmtree(folder, ignore_errors=True)
    plan = hashlib.sha256(f"{SEED} {SHIPPED}".encode()).hexdigest()[:8]  # so that weights of another plan are not used
    weights = BUILD / f"demo-{plan}.weights.h5"
    package = make_demo_package(whole, plan=SHIPPED, progress=_printer(), weights_file=weights)
    package = int8_alone(package, whole, shipped)
    pack(shipped, list(package.files), packed)
    print(json.dumps({"metrics": package.metrics, "parity": package.parity}, indent=2))
    size = packed.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{packed} has {size:,} bytes; at most {MAX_BYTES:,} may ship")
    packed.replace(DEMO_FILE)
    print(f"{DEMO_FILE}: {size:,} bytes")


def _printer() -> Callable[[float, str], None]:
    """Print progress now and then."""
    noted = 0.0

    def progress(fraction: float, message: str) -> None:
        nonlocal noted
        if time.monotonic() - noted > NOTED_EVERY:
            noted = time.monotonic()
            print(f"{fraction:4.0%} {message}", flush=True)

    return progress


def int8_alone(package: Package, folder: Path, target: Path) -> Package:
    """Copy a package into `target`, without the float32 networks, which are nine tenths of its size."""
    if not package.parity["int8"]["passed"]:
        sys.exit(f"int8 strays too far from float32: {package.parity['int8']}")
    engine = "openvino-int8"
    changes = {
        "files": {name: sha256 for name, sha256 in package.files.items() if name not in FLOAT_FILES},
        "parity": package.parity | {name: package.parity[name] | NOT_SHIPPED for name in ("f32", "bf16")},
        "calibration": {engine: package.calibration[engine]},
        "ood": {name: limit for name, limit in package.ood.items() if name in ("threshold", engine)},
    }
    small = package.model_copy(update=changes)
    target.mkdir()
    for name in small.files:
        shutil.copyfile(folder / name, target / name)
    small.write(target)
    return small


def pack(folder: Path, names: list[str], target: Path) -> None:
    """Pack the files of a package for `db.registry.transfer`. The same files always give the same bytes."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=9, fileobj=raw, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in [MANIFEST, *sorted(names)]:
            info = tarfile.TarInfo(name)
            info.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                archive.addfile(info, file)


if __name__ == "__main__":
    main()
