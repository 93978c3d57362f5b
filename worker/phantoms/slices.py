"""Draws labelled slices of synthetic patients, for training."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.imaging.recipe import lung_window
from worker.phantoms.anatomy import FIELD_OF_VIEW_MM, Patient, PhantomSlice, make_patient

MATRICES = (1.0, 256 / 224, 320 / 224, 512 / 224)  # side of a scanner's image / side of the network's input
DISEASED_CM2 = 12.0  # a slice with this area of diseased lung is positive; the cut of one lesion has 6 to 36 cm²


@dataclass(frozen=True)
class LabelledSlices:
    """Windowed slices with their true labels. Split them by patient, not by slice.

    `pixels`: uint8[n,S,S]. `labels`: uint8[n], 1 if diseased. `patients`: int64[n].
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    patients: NDArray[np.int64]


def hounsfield(patient: Patient, z: float, size: int) -> NDArray[np.int16]:
    """Return a scanned cut of `patient` at height z in [0,1]: HU as int16[size,size]."""
    return np.rint(np.clip(PhantomSlice(patient, z, size).draw(), -1024, 3071)).astype(np.int16)


def labelled_slices(seed: int, pairs: int, per_patient: int, *, first_pair: int = 0, size: int = 224) -> LabelledSlices:
    """Draw `2 * pairs * per_patient` slices, half of them positive.

    Patients come in pairs: an ill one and a healthy one. Both are cut at the same heights, so that the height does not
    predict the class. An ill patient is cut only where at least `DISEASED_CM2` of lung is diseased, because slices with
    less would have no clear label. Each pair is scanned with one of `MATRICES`, which changes the grain of the noise,
    and then scaled to `size` as the recipe does. With another `first_pair`, the same seed gives other patients.
    """
    cuts = list(_cuts(seed, pairs, per_patient, first_pair))
    matrices = [MATRICES[index // 2 % len(MATRICES)] for index, _, _ in cuts]
    pixels = [_scanned(patient, z, size, matrix) for (_, patient, z), matrix in zip(cuts, matrices, strict=True)]
    return LabelledSlices(
        pixels=np.stack(pixels),
        labels=np.array([1 - index % 2 for index, _, _ in cuts], np.uint8),
        patients=np.array([index for index, _, _ in cuts], np.int64),
    )


def lesion_masks(seed: int, pairs: int, per_patient: int, *, first_pair: int = 0, size: int = 224) -> NDArray[np.bool_]:
    """Draw where the lesions are in the slices of `labelled_slices`: bool[n,S,S]. Healthy slices are all False."""
    cuts = _cuts(seed, pairs, per_patient, first_pair)
    return np.stack([PhantomSlice(patient, z, size).disease() >= 0.5 for _, patient, z in cuts])


def _cuts(seed: int, pairs: int, per_patient: int, first_pair: int) -> Iterator[tuple[int, Patient, float]]:
    """Yield the patient's index, the patient and the height of each slice."""
    for pair in range(first_pair, first_pair + pairs):
        ill, healthy = make_patient(seed, 2 * pair, True), make_patient(seed, 2 * pair + 1, False)
        for z in _diseased_heights(ill, per_patient):
            yield 2 * pair, ill, z
            yield 2 * pair + 1, healthy, z


def _scanned(patient: Patient, z: float, size: int, matrix: float) -> NDArray[np.uint8]:
    """Return a cut as uint8[size,size]. It is scanned with sides `matrix` times as long, and then scaled."""
    scan = Image.fromarray(lung_window(hounsfield(patient, z, round(size * matrix))))
    return np.asarray(scan.resize((size, size), Image.Resampling.BILINEAR))


def _diseased_heights(patient: Patient, count: int) -> list[float]:
    """Return `count` heights with disease, by a coarse drawing. If there are too few, repeat the worst one."""
    rng = np.random.default_rng([*patient.seed, 17])
    coarse = 48
    pixel_cm2 = (FIELD_OF_VIEW_MM / coarse / 10) ** 2
    tried = [
        (z, float(PhantomSlice(patient, z, coarse).disease().sum()) * pixel_cm2)
        for z in map(float, rng.uniform(0.12, 0.82, 6 * count))
    ]
    diseased = [z for z, area in tried if area >= DISEASED_CM2]
    worst = max(tried, key=lambda one: one[1])[0]
    return (diseased + [worst] * count)[:count]
