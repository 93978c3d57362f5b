"""`make demo-model`: trains the demo model that ships with ctbatch and writes it to its place in the source tree."""

import gzip
import json
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from db.demo_model import DEMO_FILE
from training.demo import SHIPPED, make_demo_package
from worker.engines.package import MANIFEST

MAX_BYTES = 24_000_000
BUILD = Path(__file__).parents[1] / ".build"
NOTED_EVERY = 20.0  # seconds


def main() -> None:
    """Train, package and pack; the trained network is kept in `.build`, so that a second call only packages it."""
    BUILD.mkdir(exist_ok=True)
    noted = 0.0

    def progress(fraction: float, message: str) -> None:
        nonlocal noted
        if time.monotonic() - noted > NOTED_EVERY:
            noted = time.monotonic()
            print(f"{fraction:4.0%} {message}", flush=True)

    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        package = make_demo_package(
            Path(folder), plan=SHIPPED, progress=progress, network_file=BUILD / "demo-network.keras"
        )
        packed = BUILD / DEMO_FILE.name
        pack(Path(folder), list(package.files), packed)
    print(json.dumps({"metrics": package.metrics, "parity": package.parity}, indent=2))
    size = packed.stat().st_size
    if size > MAX_BYTES:
        sys.exit(f"{packed} has {size:,} bytes; at most {MAX_BYTES:,} may ship")
    packed.replace(DEMO_FILE)
    print(f"{DEMO_FILE}: {size:,} bytes")


def pack(folder: Path, names: list[str], target: Path) -> None:
    """Pack a package's files as `db.packages` imports them; the same files always give the same bytes."""
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
