"""Near-identical slices: copies that were saved again are found, other slices are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from worker.imaging.near_duplicates import Features, Pictures, Similar, find_similar, perceptual_hash

Pixels = NDArray[np.uint8]


def blobs(seed: int) -> Pixels:
    """A smooth picture of its own, uint8[224, 224]."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 9), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC))


def jpeg(pixels: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=40)
    return np.asarray(Image.open(buffer))


def smaller(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize((100, 100)).resize((224, 224)))


def darker(pixels: Pixels) -> Pixels:
    return (pixels * 0.8).astype(np.uint8)


def compare(pictures: list[Pixels], labels: list[int] | None = None) -> Similar:
    known = Pictures()
    for number, picture in enumerate(pictures):
        known.place(str(number), picture)
    return find_similar(known.arrays(), np.array(labels or [0] * len(pictures), np.int64))


@pytest.mark.parametrize("copied", [jpeg, smaller, darker])
def test_a_copy_that_was_saved_again_is_found(copied: Callable[[Pixels], Pixels]) -> None:
    pictures = [blobs(n) for n in range(20)]
    found = compare([*pictures, *map(copied, pictures)], [0] * 20 + [1] * 10 + [0] * 10)
    assert (found.within, found.across) == (10, 10)
    assert found.cluster.tolist() == [*range(20), *range(20)]
    assert found.examples_across == [(n, n + 20) for n in range(10)]


def test_different_slices_are_not_near_identical() -> None:
    found = compare([blobs(n) for n in range(40)])
    assert found.within == 0
    assert found.cluster.tolist() == list(range(40))


def test_mirrored_copy_that_was_saved_again_is_found() -> None:
    pictures = [blobs(n) for n in range(40)]
    found = compare([*pictures, *(jpeg(each[:, ::-1]) for each in pictures)])
    assert found.within == 40
    assert found.cluster.tolist() == [*range(40), *range(40)]


def test_copy_of_a_symmetric_slice_is_one_pair() -> None:
    half = blobs(1)[:, :112]
    symmetric = np.hstack([half, half[:, ::-1]])
    assert compare([symmetric, jpeg(symmetric)]).within == 1


def test_blank_slices_are_not_near_identical() -> None:
    found = compare([np.full((224, 224), value, np.uint8) for value in (0, 7, 255)])
    assert found.cluster.tolist() == [0, 1, 2]


def test_a_chain_of_pairs_is_one_cluster() -> None:
    start, end = blobs(1).astype(float), blobs(2).astype(float)
    steps = [(start + (end - start) * n / 12).astype(np.uint8) for n in range(13)]
    found = compare([blobs(3), *steps])
    assert found.cluster.tolist() == [0, *[1] * 13]
    assert compare([steps[0], steps[-1]]).within == 0


def test_the_hash_is_that_of_the_published_recipe() -> None:
    picture = blobs(5)
    grid = picture.reshape(32, 7, 32, 7).mean((1, 3))
    place = 2 * np.arange(32) + 1
    expected = [
        (grid * np.outer(np.cos(np.pi * place * u / 64), np.cos(np.pi * place * v / 64))).sum()
        for u in range(1, 9)
        for v in range(1, 9)
    ]
    bits = "".join("1" if value > np.median(expected) else "0" for value in expected)
    assert f"{perceptual_hash(picture):064b}" == bits


def test_no_slices_have_no_pairs() -> None:
    empty = find_similar(Pictures().arrays(), np.array([], np.int64))
    assert len(empty.cluster) == 0


@pytest.mark.slow
def test_a_hundred_thousand_slices_are_compared_in_blocks() -> None:
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[50_000:60_000] = hashes[:10_000]
    means = draw.integers(0, 255, (100_000, 784), dtype=np.uint8)
    means[50_000:60_000] = means[:10_000]
    mirrored = draw.integers(0, 2**64, 100_000, dtype=np.uint64)
    found = find_similar(Features(hashes, mirrored, means), np.zeros(100_000, np.int64))
    assert found.within == 10_000
