"""Measures how much the answers of a package's int8 and float32 networks differ.

Use slices that are new to both networks.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cli.benchmarks.slices import read_slices
from cli.errors import UsageError
from cli.output import print_report
from db.registry.calibration import calibration_of
from db.registry.manifest import FLOAT_FILE, INT8_FILE
from worker.engines.openvino import OpenVinoEngine
from worker.engines.package import probability, read_package
from worker.engines.processor import read_processor

MOST = 5000  # slices


def run(path: Path, package: Path, as_json: bool) -> None:
    """Score the slices below `path` with both networks, and print the number and the size of the differences."""
    print_report(compare(read_slices(path, MOST), package), as_json)


def compare(slices: NDArray[np.uint8], folder: Path) -> dict[str, object]:
    """Compare int8 with float32 on slices, uint8[n, 224, 224]. Each network uses its own temperature and threshold.

    Raises:
        UsageError: the package lacks one of the two networks.
    """
    package = read_package(folder)
    if missing := {FLOAT_FILE, INT8_FILE} - package.files.keys():
        raise UsageError(f"the package {folder} lacks {', '.join(sorted(missing))}; name one that holds both")
    chances, verdicts = [], []
    for file, precision in ((FLOAT_FILE, "f32"), (INT8_FILE, "int8")):
        engine = OpenVinoEngine(folder / file, precision, None)
        temperature, threshold = calibration_of(package, engine.name)
        chances.append(probability(engine.predict(slices).logit, temperature))
        verdicts.append(chances[-1] >= threshold)
    differences = np.abs(chances[1] - chances[0])
    return {
        "processor": read_processor().line,
        "slices": len(slices),
        "to_covid": int((verdicts[1] & ~verdicts[0]).sum()),
        "to_non_covid": int((verdicts[0] & ~verdicts[1]).sum()),
        "flipped_share": float((verdicts[0] != verdicts[1]).mean()),
        "mean_difference": float(differences.mean()),
        "p99_difference": float(np.percentile(differences, 99)),
        "largest_difference": float(differences.max()),
    }
