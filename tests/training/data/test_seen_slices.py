"""What a model was trained on is found among a site's slices, though its files were saved anew."""

import io
from itertools import chain

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from db.models import Dataset
from db.settings import Settings
from db.storage import storage
from training.data.seen_slices import find_seen_in_training, slices_of

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


def share_known(pixels: Pixels, datasets: list[Dataset], rows: set[int] | None = None) -> float:
    return float(find_seen_in_training(pixels, chain.from_iterable(slices_of(each, rows) for each in datasets)).mean())


@pytest.mark.usefixtures("settings")
def test_slices_connected_only_by_a_chain_are_not_seen() -> None:
    """As the neighbours in a series of thin slices, of which the model knows one."""
    first, last = pictures(2, 3).astype(float)
    series = np.stack([(first + (last - first) * step / 20).astype(np.uint8) for step in range(21)])
    assert 0 < share_known(series[1:], [dataset(series[:1])]) < 0.6


@pytest.mark.usefixtures("settings")
def test_slices_that_were_saved_anew_are_seen() -> None:
    taught, others = pictures(8, 1), pictures(6, 2)
    trained_on = [dataset(taught[:5], taught[5:])]
    again = np.stack([saved_as_jpeg(each) for each in taught[4:]])
    assert not np.array_equal(again, taught[4:])
    assert share_known(others, trained_on) == 0
    assert share_known(np.concatenate([again, others]), trained_on) == 0.4
    assert share_known(np.concatenate([taught, taught, others[:4]]), trained_on) == 0.8
    assert share_known(others, []) == 0


@pytest.mark.usefixtures("settings")
def test_only_the_rows_that_are_named_count() -> None:
    taught = pictures(6, 1)
    assert share_known(taught, [dataset(taught[:4], taught[4:])], {3, 4}) == pytest.approx(2 / 6)


def test_lost_files_leave_the_other_slices_comparable(settings: Settings) -> None:
    taught = pictures(4, 1)
    found = dataset(taught[:2], taught[2:])
    storage().delete(found.arrays[0])
    assert share_known(taught, [found]) == 0.5


def test_heartbeat_is_called_while_comparing(settings: Settings) -> None:
    beats: list[None] = []
    find_seen_in_training(pictures(2, 1), slices_of(dataset(pictures(2, 2))), lambda: beats.append(None))
    assert len(beats) >= 2
