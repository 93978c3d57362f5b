"""Pictures for people: slices, and heat maps over them."""

import io

import numpy as np
import pytest
from PIL import Image

from worker.imaging.recipe import SIDE
from worker.imaging.render import heat_colours, overlay_png, slice_png

PIXELS = np.arange(SIDE * SIDE, dtype=np.uint32).astype(np.uint8).reshape(SIDE, SIDE)


def opened(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    return picture


FULL_HEAT = 0.4 * 100 + 0.6 * heat_colours(np.array([1], np.float32))[0].astype(np.float64)


def warm(row: int, column: int) -> np.ndarray:
    cam = np.zeros((7, 7), np.float32)
    cam[row, column] = 0.003
    return cam


def test_a_slice_at_its_own_size_is_its_pixels() -> None:
    picture = opened(slice_png(PIXELS, SIDE))
    assert (picture.mode, picture.size) == ("L", (SIDE, SIDE))
    assert (np.asarray(picture) == PIXELS).all()


@pytest.mark.parametrize("size", [64, 448])
def test_pictures_come_in_the_size_asked_for(size: int) -> None:
    assert opened(slice_png(PIXELS, size)).size == (size, size)
    overlay = opened(overlay_png(PIXELS, warm(1, 1), size))
    assert (overlay.size, overlay.mode) == ((size, size), "RGB")


@pytest.mark.parametrize(
    "cam", [np.zeros((7, 7)), np.full((7, 7), -1.0), np.full((7, 7), np.nan)], ids=["0", "-1", "nan"]
)
def test_where_nothing_is_warm_the_slice_stays_plain(cam: np.ndarray) -> None:
    assert overlay_png(PIXELS, cam.astype(np.float32), 300) == slice_png(PIXELS, 300)


def test_only_the_warm_part_is_coloured() -> None:
    grey = np.full((SIDE, SIDE), 100, np.uint8)
    overlay = np.asarray(opened(overlay_png(grey, warm(1, 5), SIDE))).astype(int)
    cell = SIDE // 7
    assert (overlay[4 * cell :] == 100).all()
    assert (overlay[:, : 3 * cell] == 100).all()
    hottest = overlay[cell + cell // 2, 5 * cell + cell // 2]
    assert np.abs(hottest - FULL_HEAT).max() < 12  # the middle of the cell lies between two pixels


def test_full_heat_is_six_parts_colour_and_four_parts_slice() -> None:
    grey, everywhere = np.full((SIDE, SIDE), 100, np.uint8), np.full((7, 7), 0.5, np.float32)
    overlay = np.asarray(opened(overlay_png(grey, everywhere, SIDE)))
    assert (overlay == np.rint(FULL_HEAT)).all()


def test_heat_is_relative_to_its_own_maximum() -> None:
    cam = np.random.default_rng(3).random((7, 7), np.float32)
    assert overlay_png(PIXELS, cam, 100) == overlay_png(PIXELS, cam * 4, 100)


def test_warmer_is_always_brighter() -> None:
    colours = heat_colours(np.linspace(0, 1, 256, dtype=np.float32)).astype(float)
    brightness = colours @ [0.30, 0.59, 0.11]
    assert (np.diff(brightness) > -0.5).all()
    assert (np.diff(brightness[::8]) > 0).all()
    assert brightness[-1] - brightness[0] > 150
