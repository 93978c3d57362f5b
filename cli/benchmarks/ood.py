"""What a package's distance flags: slices like those it knows, and pictures that are nothing of the kind."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cli.errors import UsageError
from cli.output import print_json, print_table
from worker.engines.load import load_engine
from worker.engines.package import limit_of, read_package
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.recipe import SIDE, fit

MOST = 400
ENDINGS = {".png", ".jpg", ".jpeg", ".dcm", ".tif", ".tiff", ".bmp"}
Pixels = NDArray[np.uint8]


def run(path: Path, package: Path, as_json: bool) -> None:
    """Score each kind and print the share beyond the package's threshold."""
    engine = load_engine(package, "openvino").engine
    limit = limit_of(read_package(package).ood, engine.name)
    if limit is None:
        raise UsageError(f"the package {package} tells no distance")
    slices = read_slices(path)
    found = {}
    for kind, pictures in {"the slices themselves": slices, **_strange(slices)}.items():
        distance = engine.predict(pictures).distance
        if distance is None:
            raise UsageError(f"the package {package} tells no distance")
        found[kind] = {
            "pictures": len(pictures),
            "flagged": float((distance > limit).mean()),
            "median_distance": float(np.median(distance)),
        }
    if as_json:
        print_json({"threshold": limit, "engine": engine.name, "kinds": found})
        return
    rows = [(k, v["pictures"], f"{v['flagged']:.3f}", f"{v['median_distance']:.2f}") for k, v in found.items()]
    print_table(("what", "pictures", "flagged", f"median distance (threshold {limit:.2f})"), rows)


def read_slices(path: Path, most: int = MOST) -> Pixels:
    """Read at most `most` slices of a folder, spread over it, as the recipe prepares them: uint8[n, 224, 224].

    Raises UsageError: the folder holds none.
    """
    files = sorted(each for each in path.rglob("*") if each.suffix.lower() in ENDINGS)
    if not files:
        raise UsageError(f"there is no slice in {path}")
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)]
    return np.stack([decode(each.read_bytes(), DecodeLimits())[0].pixels for each in chosen])


def _strange(slices: Pixels) -> dict[str, Pixels]:
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
    """Slices in the lung window (-600, 1500 HU) as they would be in another."""
    hu = slices.astype(np.float32) / 255 * 1500 - 1350
    return np.asarray(np.clip((hu - (centre - width / 2)) / width, 0, 1) * 255, np.uint8)


def _photographs(rng: np.random.Generator) -> Pixels:
    """Crops of scikit-learn's two sample photographs."""
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
    """Crops of the MR slice that pydicom is tested with, scaled to its own range."""
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
