"""Measures which share of slices, and of other pictures, a model package flags as out of distribution."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cli.benchmarks.slices import read_slices
from cli.errors import UsageError
from cli.output import print_json, print_table
from db.registry.calibration import limit_of
from worker.engines.load import load_engine
from worker.engines.package import read_package
from worker.imaging.recipe import SIDE, fit

MOST = 400  # slices
Pixels = NDArray[np.uint8]


def run(path: Path, package: Path, as_json: bool) -> None:
    """Score pictures of each kind, and print the share whose distance is beyond the package's limit."""
    engine = load_engine(package, "openvino").engine
    limit = limit_of(read_package(package).ood, engine.name)
    slices = read_slices(path, MOST)
    kinds = {}
    for kind, pictures in {"the slices themselves": slices, **_other_pictures(slices)}.items():
        distance = engine.predict(pictures).distance
        if distance is None or limit is None:
            raise UsageError(f"the package {package} has no out-of-distribution distance; name another package")
        kinds[kind] = {
            "pictures": len(pictures),
            "flagged": float((distance > limit).mean()),
            "median_distance": float(np.median(distance)),
        }
    if as_json:
        print_json({"threshold": limit, "engine": engine.name, "kinds": kinds})
        return
    rows = [(k, v["pictures"], f"{v['flagged']:.3f}", f"{v['median_distance']:.2f}") for k, v in kinds.items()]
    print_table(("kind", "pictures", "flagged", f"median distance (threshold {limit:.2f})"), rows)


def _other_pictures(slices: Pixels) -> dict[str, Pixels]:
    rng = np.random.default_rng(0)
    return {
        "inverted": 255 - slices,
        "soft-tissue window": _window(slices, 40, 400),
        "bone window": _window(slices, 500, 2000),
        "noise": rng.integers(0, 256, (100, SIDE, SIDE), dtype=np.uint8),
        "black": np.zeros((4, SIDE, SIDE), np.uint8),
        "upside down": slices[:, ::-1],
        "photographs": _photographs(rng),
        "MR": _mr(rng),
    }


def _window(slices: Pixels, centre: float, width: float) -> Pixels:
    """Return slices of the lung window (centre -600, width 1500 HU) as another window would show them."""
    hu = slices.astype(np.float32) / 255 * 1500 - 1350
    return np.asarray(np.clip((hu - (centre - width / 2)) / width, 0, 1) * 255, np.uint8)


def _photographs(rng: np.random.Generator) -> Pixels:
    """Return crops of the two sample photographs of scikit-learn."""
    from sklearn.datasets import load_sample_images

    crops = []
    for picture in load_sample_images().images:
        image = Image.fromarray(picture).convert("L")
        for _ in range(50):
            side = int(rng.integers(150, 400))
            left, top = int(rng.integers(0, image.width - side)), int(rng.integers(0, image.height - side))
            crops.append(fit(image.crop((left, top, left + side, top + side))))
    return np.stack(crops)


def _mr(rng: np.random.Generator) -> Pixels:
    """Return crops of the MR slice among pydicom's test files. Its values are scaled to the grey levels 0 to 255."""
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    dataset: Any = dcmread(str(get_testdata_file("MR_small.dcm")))
    values = dataset.pixel_array.astype(np.float32)
    grey = np.clip((values - values.min()) / (np.percentile(values, 99) - values.min()), 0, 1) * 255
    image = Image.fromarray(grey.astype(np.uint8))
    crops = [fit(image)]
    for _ in range(20):
        left, top = map(int, rng.integers(0, image.width // 5, 2))
        crops.append(fit(image.crop((left, top, left + image.width * 4 // 5, top + image.height * 4 // 5))))
    return np.stack(crops)
