"""Finds near-identical slices. A perceptual hash finds candidates, and means of blocks of pixels decide.

The library `imagehash` is not used. Its hash would replace only the twelve lines of `perceptual_hash`, and resizes in
another way. The library also compares pairs one by one in Python, which is too slow for the 5 × 10⁹ pairs of 100,000
slices.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from worker.imaging.recipe import SIDE

MAX_DISTANCE = 8
MIN_CORRELATION = 0.95
"""Measured on 1,981 real slices, in runs of 25 consecutive numbers. A hash alone is not enough, since all lungs look
alike to it. A COVID and a non-COVID slice are never of one patient. But 7 of the 109 pairs within a distance of 2 join
two such slices, and so do 80 of the 516 within 4, and 1,508 of the 5,249 within 8. The correlation of block means
separates these. At 0.9, 1,113 of the 5,249 pairs are left, and 35 of them join such slices. At 0.95, 297 are left, and
none does. Of the 297, 251 lie within one run. Eight of the 46 others were inspected: each showed the same or the next
slice of one patient, up to 194 numbers away. One of them was in another window.

Copies of 300 slices are found when saved as JPEG of quality 30 (worst distance 2, correlation 0.999), shrunk to a third
(2, 0.998), put through a gamma of 0.8 (4, 0.999), given noise of 5 grey levels (4, 0.999) or cropped by 1 % a side
(8, 0.966). Copies that are cropped by 3 % (20, 0.70) are not found. Mirrored copies (36, 0.09) are found by a second
hash, of the slice mirrored left to right. On 1,979 real slices it finds no pair more."""

BLOCKS = 28  # blocks along a side; a block has 8 × 8 pixels
_GRID = 32  # the hash is computed from 32 × 32 means of 7 × 7 pixels
_HASH_BLOCK = 1024  # this many hashes at a time are compared with all later ones
_PAIRS_AT_ONCE = 1 << 15
_EXAMPLES = 20

Pixels = NDArray[np.uint8]


def _cosines() -> NDArray[np.float64]:
    """Return rows 1 to 8 of the DCT-II matrix of 32 points, float64[8, 32]."""
    frequency, place = np.arange(1, 9)[:, None], np.arange(_GRID)[None]
    return np.asarray(np.cos(np.pi * (2 * place + 1) * frequency / (2 * _GRID)))


_COSINES = _cosines()


def perceptual_hash(pixels: Pixels) -> int:
    """Return the 64-bit perceptual hash of a picture, uint8[224, 224].

    The bits say which DCT coefficients, 1 to 8 in each direction, of 32 × 32 means exceed their median (Zauner,
    Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1).
    """
    step = SIDE // _GRID
    small = pixels.reshape(_GRID, step, _GRID, step).mean((1, 3))
    coefficients = (_COSINES @ small @ _COSINES.T).ravel()
    return int.from_bytes(np.packbits(coefficients > np.median(coefficients)).tobytes(), "big")


def block_means(pixels: Pixels) -> Pixels:
    """Return the means of blocks of 8 × 8 pixels, uint8[784], of a picture, uint8[224, 224]."""
    step = SIDE // BLOCKS
    means = pixels.reshape(BLOCKS, step, BLOCKS, step).mean((1, 3))
    return np.asarray(np.rint(means), np.uint8).ravel()


@dataclass
class Pictures:
    """Different pictures in the order in which they came, and the features that are compared.

    `places`: the place of a picture, by the key of its pixels. `hashes`, `mirrored` and `means`: the features of each
    picture, in order.
    """

    places: dict[str, int] = field(default_factory=dict)
    hashes: list[int] = field(default_factory=list)
    mirrored: list[int] = field(default_factory=list)
    means: list[Pixels] = field(default_factory=list)

    def place(self, key: str, pixels: Pixels) -> int:
        """Return the place of a picture, uint8[224, 224]. Add the picture if it is new."""
        place = self.places.setdefault(key, len(self.places))
        if place == len(self.hashes):
            self.hashes.append(perceptual_hash(pixels))
            self.mirrored.append(perceptual_hash(pixels[:, ::-1]))
            self.means.append(block_means(pixels))
        return place

    def arrays(self) -> "Features":
        """Return the features of all pictures as arrays."""
        means = np.array(self.means, np.uint8).reshape(len(self.means), BLOCKS * BLOCKS)
        return Features(np.array(self.hashes, np.uint64), np.array(self.mirrored, np.uint64), means)


@dataclass(frozen=True)
class Features:
    """The features of n pictures.

    `hashes`: uint64[n]. `mirrored`: uint64[n], the hashes of the pictures mirrored left to right. `means`:
    uint8[n, 784], the block means.
    """

    hashes: NDArray[np.uint64]
    mirrored: NDArray[np.uint64]
    means: NDArray[np.uint8]


@dataclass
class Similar:
    """The near-identical pairs among n slices.

    `cluster`: int64[n]. A chain of pairs connects the slices of a cluster. The lowest index of these slices names the
    cluster. `within`: the number of pairs of the same class. `across`: the number of pairs of different classes.
    `examples_within`, `examples_across`: the first of these pairs.
    """

    cluster: NDArray[np.int64]
    within: int = 0
    across: int = 0
    examples_within: list[tuple[int, int]] = field(default_factory=list)
    examples_across: list[tuple[int, int]] = field(default_factory=list)

    def _add(self, left: NDArray[np.int64], right: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        crossing = labels[left] != labels[right]
        self.across += int(crossing.sum())
        self.within += int((~crossing).sum())
        for examples, chosen in ((self.examples_across, crossing), (self.examples_within, ~crossing)):
            room = _EXAMPLES - len(examples)
            examples += zip(left[chosen][:room].tolist(), right[chosen][:room].tolist(), strict=True)
        self.cluster = _joined(self.cluster, left, right)


def find_similar(features: Features, labels: NDArray[np.int64], progress: Callable[[], None] = lambda: None) -> Similar:
    """Find the near-identical pairs among slices with different pixels. A slice may also be near a mirrored one.

    Every hash is compared with every other hash, in blocks. For 100,000 slices that makes 10¹⁰ comparisons, which take
    two minutes and some hundred MB. Comparing only hashes that agree in some bits would save little, because near
    hashes may differ in many bits.

    `labels`: int64[n]. `progress` is called after each block.
    """
    similar = Similar(np.arange(len(labels)))
    for left, right in near_pairs(features, progress):
        similar._add(left, right, labels)
    return similar


def near_pairs(
    features: Features, progress: Callable[[], None] = lambda: None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs of `find_similar`, some thousand at a time. Each pair comes once, with left < right."""
    near = _Correlation(features.means)
    for left, right in _candidates(features.hashes, features.hashes, progress):
        found = near.are_near(left, right)
        yield left[found], right[found]
    for left, right in _candidates(features.hashes, features.mirrored, progress):
        found = near.are_near(left, right, mirrored=True)
        left, right = left[found], right[found]
        distance = np.bitwise_count(features.hashes[left] ^ features.hashes[right])
        new = (distance > MAX_DISTANCE) | ~near.are_near(left, right)
        yield left[new], right[new]


class _Correlation:
    """Decides whether pictures are near-identical, by the correlation of their block means, uint8[n, 784]."""

    def __init__(self, means: NDArray[np.uint8]) -> None:
        self._means = means
        self._mean = means.mean(1, dtype=np.float32)
        self._spread = means.std(1, dtype=np.float32) * np.float32(BLOCKS)

    def are_near(
        self, left: NDArray[np.int64], right: NDArray[np.int64], *, mirrored: bool = False
    ) -> NDArray[np.bool_]:
        """Return which pairs correlate. `mirrored`: mirror the right picture of each pair first."""
        one, other = (self._means[at].reshape(-1, BLOCKS, BLOCKS).astype(np.float32) for at in (left, right))
        together = np.einsum("ijk,ijk->i", one, other[:, :, ::-1] if mirrored else other)
        covariance = together - self._means.shape[1] * self._mean[left] * self._mean[right]
        floor = np.maximum(self._spread[left] * self._spread[right], 1)  # so that a blank slice is not near any other
        return np.asarray(covariance >= MIN_CORRELATION * floor)


def _candidates(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64], progress: Callable[[], None]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of indices, left < right, some thousand at a time.

    For each pair, the hash `hashes[left]` and the hash `others[right]` differ in at most MAX_DISTANCE bits.
    """
    rows = max(1, _HASH_BLOCK * 4096 // max(len(hashes), 4096))
    for start in range(0, len(hashes), rows):
        block, rest = hashes[start : start + rows], others[start:]
        near = np.bitwise_count(block[:, None] ^ rest[None]) <= MAX_DISTANCE
        left, right = np.nonzero(np.triu(near, 1))
        for at in range(0, len(left), _PAIRS_AT_ONCE):
            yield left[at : at + _PAIRS_AT_ONCE] + start, right[at : at + _PAIRS_AT_ONCE] + start
        progress()


def _joined(cluster: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the clusters after these pairs have been connected too. Present connections stay."""
    if len(left) == 0:
        return cluster
    n = len(cluster)
    edges = np.concatenate([left, np.arange(n)]), np.concatenate([right, cluster])
    graph = coo_array((np.ones(len(edges[0]), np.bool_), edges), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return np.asarray(first[component], np.int64)
