"""Training slices are found among a site's slices, even if their files were saved anew."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from db.models import Dataset
from db.settings import Settings
from db.storage import storage
from training.data.seen_slices import TrainingSlices, find_seen_in_training

Pixels = NDArray[np.uint8]


def pictures(count: int, seed: int) -> Pixels:
    """Soft shapes, uint8[n, 224, 224], none like another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 9, 9), np.uint8)
    return np.stack([np.asarray(Image.fromarray(each).resize((224, 224), Image.Resampling.BICUBIC)) for each in coarse])


def saved_as_jpeg(pixels: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def dataset(*parts: Pixels) -> Dataset:
    arrays = []
    for part in parts:
        buffer = io.BytesIO()
        np.save(buffer, part)
        arrays.append(storage().put(buffer.getvalue()))
    return Dataset(id=1, arrays=arrays)


def share_seen(pixels: Pixels, datasets: list[Dataset], rows: set[int] | None = None) -> float:
    trained = TrainingSlices([(each, rows or range(99)) for each in datasets])
    return float(find_seen_in_training(pixels, trained).mean())


@pytest.mark.usefixtures("settings")
def test_slices_connected_only_by_a_chain_are_not_seen() -> None:
    """As the neighbours in a series of thin slices, of which the model knows one."""
    first, last = pictures(2, 3).astype(float)
    series = np.stack([(first + (last - first) * step / 20).astype(np.uint8) for step in range(21)])
    assert 0 < share_seen(series[1:], [dataset(series[:1])]) < 0.6


@pytest.mark.usefixtures("settings")
def test_slices_that_were_saved_anew_are_seen() -> None:
    trained, others = pictures(8, 1), pictures(6, 2)
    trained_on = [dataset(trained[:5], trained[5:])]
    again = np.stack([saved_as_jpeg(each) for each in trained[4:]])
    assert not np.array_equal(again, trained[4:])
    assert share_seen(others, trained_on) == 0
    assert share_seen(np.concatenate([again, others]), trained_on) == 0.4
    assert share_seen(np.concatenate([trained, trained, others[:4]]), trained_on) == 0.8
    assert share_seen(others, []) == 0


@pytest.mark.usefixtures("settings")
def test_only_the_rows_that_are_named_count() -> None:
    trained = pictures(6, 1)
    assert share_seen(trained, [dataset(trained[:4], trained[4:])], {3, 4}) == pytest.approx(2 / 6)


def test_lost_files_leave_the_other_slices_comparable_and_are_counted(settings: Settings) -> None:
    pixels = pictures(5, 1)
    found = dataset(pixels[:2], pixels[2:])
    storage().delete(found.arrays[1])
    trained = TrainingSlices([(found, {0, 1, 2, 4})])
    for _ in range(2):
        assert find_seen_in_training(pixels, trained).sum() == 2
        assert trained.gone == 2
    storage().delete(found.arrays[0])
    assert not find_seen_in_training(pixels, trained).any()
    assert trained.gone == 4


def test_heartbeat_is_called_while_comparing(settings: Settings) -> None:
    beats: list[None] = []
    find_seen_in_training(
        pictures(2, 1), TrainingSlices([(dataset(pictures(2, 2)), range(2))]), lambda: beats.append(None)
    )
    assert len(beats) >= 2
