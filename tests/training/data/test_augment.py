"""Augmentation follows its seed, makes the wanted changes, and keeps the shape and type of slices."""

import numpy as np
import pytest

from training.config import PRESETS, Augment


@pytest.fixture(scope="module")
def slices():
    """Stripes with some grain, uint8[6,64,64], brighter at one side."""
    y, x = np.mgrid[0:64, 0:64]
    grain = np.random.default_rng(0).integers(0, 30, (6, 64, 64))
    return np.stack([(40 + 2 * x + 20 * np.sin(y / (4 + i)) + grain[i]).astype(np.uint8) for i in range(6)])


def augmented(slices, seed=1, **amounts):
    from training.data.augment import Augmenter

    return Augmenter(Augment(**amounts))(slices, seed)


@pytest.mark.slow
def test_same_seed_makes_the_same_changes(slices):
    from training.data.augment import Augmenter

    augmenter = Augmenter(PRESETS["scratch"].augment)
    first, other, again = (augmenter(slices, seed) for seed in (1, 2, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.shape, first.dtype) == (slices.shape, np.uint8)


def test_no_amounts_change_nothing(slices):
    assert np.array_equal(augmented(slices), slices)


def test_flip_mirrors_left_and_right(slices):
    found = augmented(slices, flip=True)
    for before, after in zip(slices, found, strict=True):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])
    assert not np.array_equal(found, slices)


def test_each_slice_of_a_batch_is_blurred_by_its_own_amount():
    points = np.zeros((32, 16, 16), np.uint8)
    points[:, 8, 8] = 255
    found = augmented(points, blur=3, often=1)
    middles = found[:, 8, 8]
    assert len(np.unique(middles)) > 16
    assert middles.min() < 20
    assert middles.max() > 150
    for one in found:
        assert np.array_equal(one, one.T), "the blur is round"
        assert abs(int(one.sum()) - 255) < 15, "it keeps the brightness"


def test_shift_moves_a_slice_and_mirrors_it_at_the_edge(slices):
    from training.data.augment import RandomAffine

    layer = RandomAffine(Augment(shift=0.5))
    layer.uniform = lambda chosen, low, high: np.full((len(chosen), 1, 1, 1), high / 4, np.float32)
    moved = np.asarray(layer(slices[..., None].astype(np.float32)))[..., 0]
    assert np.array_equal(moved[:, :-8, :-8], slices[:, 8:, 8:])
    assert np.array_equal(moved[:, -8:, :-8], slices[:, :-9:-1, 8:])


def test_quarter_turn_turns_about_the_middle(slices):
    from training.data.augment import RandomAffine

    layer = RandomAffine(Augment(rotation=90))
    layer.uniform = lambda chosen, low, high: np.full((len(chosen), 1, 1, 1), high, np.float32)
    turned = np.asarray(layer(slices[..., None].astype(np.float32)))[..., 0]
    assert np.abs(turned - np.rot90(slices, axes=(1, 2))).max() < 0.1


@pytest.mark.parametrize("name", ["rotation", "shift", "shear", "zoom", "aspect", "contrast", "gamma", "blur", "noise"])
def test_each_change_changes_something(name, slices):
    amount = {"rotation": 20, "shear": 10, "noise": 10, "blur": 1.0}.get(name, 0.3)
    assert not np.array_equal(augmented(slices, **{name: amount, "often": 1}), slices)


@pytest.mark.parametrize("name", ["jpeg", "border", "text", "erase"])
def test_artefacts_affect_the_wanted_share_of_slices(name, slices):
    many = slices[np.arange(60) % 6]
    changed = (augmented(many, **{name: 0.5}) != many).any((1, 2)).mean()
    assert 0.25 < changed < 0.75


def test_erasing_blackens_a_rectangle_and_leaves_the_rest(slices):
    for before, after in zip(slices, augmented(slices, erase=1), strict=True):
        rows, columns = (np.flatnonzero((after != before).any(axis)) for axis in (1, 0))
        inside = np.zeros(before.shape, bool)
        inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert np.array_equal(after, np.where(inside, 0, before))
        assert 0.01 < inside.mean() < 0.17


def test_jpeg_artefacts_resemble_a_real_encoders(slices):
    """The same blocks lose the same detail: nearer to Pillow's own JPEG than to the slice."""
    import io

    from PIL import Image

    from training.data.augment import RandomJpeg

    noisy = np.clip(slices[:1] + np.random.default_rng(0).normal(0, 12, slices[:1].shape), 0, 255).astype(np.uint8)
    layer = RandomJpeg(1.0)
    layer.uniform = lambda _slices, low, high: np.full((1, 1, 1, 1), 1.0 if high > 1 else 0.0, np.float32)
    ours = np.clip(np.round(np.asarray(layer(noisy[..., None].astype(np.float32)))[0, ..., 0]), 0, 255)
    packed = io.BytesIO()
    Image.fromarray(noisy[0]).save(packed, "JPEG", quality=50)  # quality 50 is the standard's own table
    theirs = np.asarray(Image.open(packed), float)
    assert np.abs(ours - theirs).mean() < 1
    assert np.abs(noisy[0] - theirs).mean() > 4
