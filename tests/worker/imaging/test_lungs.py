"""The share of a slice that is lung, on drawings, phantoms and real slices."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from db.findings.rules import LEAST_LUNG
from worker.imaging.lungs import lung_fraction
from worker.imaging.recipe import fit, lung_window
from worker.phantoms.anatomy import make_patient
from worker.phantoms.slices import hounsfield

SLICES = Path(__file__).parents[3] / ".." / "shared" / "data" / "sars-cov-2-ct"
AIR, LUNG, FAT, MUSCLE, BONE = -1000.0, -850.0, -100.0, 50.0, 400.0

y, x = np.mgrid[:224, :224]


def ellipse(centre_x: float, centre_y: float, half_width: float, half_height: float) -> np.ndarray:
    return ((x - centre_x) / half_width) ** 2 + ((y - centre_y) / half_height) ** 2 < 1


BODY = [(ellipse(112, 112, 95, 70), FAT), (ellipse(112, 112, 88, 63), MUSCLE), (ellipse(112, 150, 14, 14), BONE)]
LUNGS = [(ellipse(70, 112, 30, 45), LUNG), (ellipse(154, 112, 30, 45), LUNG)]
BOWEL_GAS = [(ellipse(112, 75, 10, 6), AIR)]
WINDPIPE = [(ellipse(112, 100, 9, 9), AIR)]
TABLE = [((y > 195) & (y < 201) & (x > 10) & (x < 214), -300.0)]
FAT_ROLL = [(ellipse(112, 112, 400, 400), FAT), (ellipse(112, 112, 85, 60), MUSCLE)]  # no air at all is in view


def drawn(*parts: list[tuple[np.ndarray, float]]) -> np.ndarray:
    hu = np.full((224, 224), AIR)
    for shape, value in chain(*parts):
        hu[shape] = value
    return lung_window(hu + np.random.default_rng(0).normal(0, 20, hu.shape))


def cut(index: int, height: float) -> np.ndarray:
    """A phantom's prepared slice; height 0 is the apex of the lungs, 1 their base."""
    hu = hounsfield(make_patient(1, index, positive=index % 2 == 0), height, 256)
    return fit(Image.fromarray(lung_window(hu)))


def test_lungs_are_measured_as_large_as_they_were_drawn() -> None:
    area = float((LUNGS[0][0] | LUNGS[1][0]).mean())
    assert lung_fraction(drawn(BODY, LUNGS)) == pytest.approx(area, abs=0.01)
    assert lung_fraction(drawn(BODY, LUNGS, TABLE)) == pytest.approx(area, abs=0.01)


@pytest.mark.parametrize(
    "parts",
    [[BODY], [BODY, BOWEL_GAS], [BODY, WINDPIPE], [BODY, TABLE], [FAT_ROLL]],
    ids=["soft tissue", "abdomen", "neck", "table", "fat and muscle without air"],
)
def test_slices_above_and_below_the_lungs_have_too_little(parts: list) -> None:
    assert lung_fraction(drawn(*parts)) < LEAST_LUNG


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_picture_of_one_grey_has_none(grey: int) -> None:
    assert lung_fraction(np.full((224, 224), grey, np.uint8)) == 0


@pytest.mark.parametrize("index", range(4))
def test_phantoms_have_much_lung_in_the_middle_and_little_at_the_apex(index: int) -> None:
    assert lung_fraction(cut(index, 0.5)) > 3 * LEAST_LUNG
    assert lung_fraction(cut(index, 0.0)) < LEAST_LUNG


def test_contrast_and_brightness_of_a_picture_do_not_matter() -> None:
    slice_ = drawn(BODY, LUNGS)
    assert lung_fraction(slice_ // 2 + 60) == pytest.approx(lung_fraction(slice_), abs=0.005)


@pytest.mark.skipif(not SLICES.is_dir(), reason="the shared data set is not beside the project")
def test_nearly_every_real_slice_of_the_lungs_has_enough() -> None:
    paths = sorted(SLICES.glob("*/*.png"))[::20]
    shares = [lung_fraction(fit(Image.open(path).convert("L"))) for path in paths]
    assert np.mean(np.array(shares) >= LEAST_LUNG) > 0.95
    assert 0.3 < float(np.median(shares)) < 0.6
