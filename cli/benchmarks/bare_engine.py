"""Measures the engine alone: `python -m cli.benchmarks.bare_engine PACKAGE ARCHIVE` prints its images/s."""

import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from db.settings import get_settings
from worker.engines.load import load_engine
from worker.imaging.archives.archive import Limits, read_entries
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.rejections import SliceRejected

WARM_UP_BATCHES = 3


def prepared(archive: Path) -> NDArray[np.uint8]:
    """Return every readable slice of the archive, uint8[n, 224, 224], without duplicates."""
    slices: dict[str, NDArray[np.uint8]] = {}
    for entry in read_entries(archive, archive.name, Limits()):
        content = entry.read()
        if isinstance(content, SliceRejected):
            continue
        try:
            for slice_ in decode(content, DecodeLimits()):
                slices.setdefault(slice_.sha256_pixels, slice_.pixels)
        except SliceRejected:
            continue
    return np.stack(list(slices.values()))


def main(package: str, archive: str) -> None:
    """Print the images/s of one pass over the archive, after a warm-up."""
    settings = get_settings()
    engine = load_engine(Path(package), settings.engine, threads=settings.engine_threads or None).engine
    slices = prepared(Path(archive))
    for _ in range(WARM_UP_BATCHES):
        engine.predict(slices[: engine.batch_size])
    started = time.perf_counter()
    for start in range(0, len(slices), engine.batch_size):
        engine.predict(slices[start : start + engine.batch_size])
    print(len(slices) / (time.perf_counter() - started))


if __name__ == "__main__":
    main(*sys.argv[1:])
