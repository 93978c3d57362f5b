"""Synthetic patients as labelled slices to train on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.anatomy import FIELD_OF_VIEW_MM, Patient, Slice, make_patient

LUNG_WINDOW = (-600.0, 1500.0)  # centre and width in HU, as in the recipe lung-224-v1
MATRICES = (1.0, 256 / 224, 320 / 224, 512 / 224)  # of scanners, by the side that the network takes
DISEASED_CM2 = 12.0  # area of diseased lung from which a slice counts as positive; the cut of one lesion is 6 to 36


@dataclass(frozen=True)
class LabelledSlices:
    """Windowed slices with their truth; split them by patient, never by slice.

    `pixels` uint8[n,S,S]; `labels` uint8[n] (1: diseased); `patients` int64[n].
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    patients: NDArray[np.int64]


def hounsfield(patient: Patient, z: float, size: int) -> NDArray[np.int16]:
    """Cut `patient` at height z in [0,1] and scan it: HU as int16[size,size]."""
    return np.rint(np.clip(Slice(patient, z, size).draw(), -1024, 3071)).astype(np.int16)


def lung_window(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Map HU to uint8 by the lung window, linearly, as the recipe does."""
    centre, width = LUNG_WINDOW
    share = (hu.astype(np.float32) - np.float32(centre - width / 2)) / np.float32(width)
    return np.asarray(np.rint(np.clip(share, 0, 1) * 255), np.uint8)


def labelled_slices(seed: int, pairs: int, per_patient: int, *, first_pair: int = 0, size: int = 224) -> LabelledSlices:
    """Draw `2 * pairs * per_patient` slices, half of them positive.

    Patients come in pairs, an ill one and a healthy one cut at the same heights: height does not tell the class.
    An ill patient is cut where at least `DISEASED_CM2` of lung is diseased: slices with less have no label.
    A pair is scanned at one of `MATRICES`, for noise of another grain, and brought to `size` as the recipe does.
    `first_pair` makes disjoint populations of one seed.
    """
    rows = [
        (index, _scanned(patient, z, size, MATRICES[pair % len(MATRICES)]))
        for pair in range(first_pair, first_pair + pairs)
        for ill, healthy in [(make_patient(seed, 2 * pair, True), make_patient(seed, 2 * pair + 1, False))]
        for z in _diseased_heights(ill, per_patient)
        for index, patient in ((2 * pair, ill), (2 * pair + 1, healthy))
    ]
    return LabelledSlices(
        pixels=np.stack([pixels for _, pixels in rows]),
        labels=np.array([1 - index % 2 for index, _ in rows], np.uint8),
        patients=np.array([index for index, _ in rows], np.int64),
    )


def _scanned(patient: Patient, z: float, size: int, matrix: float) -> NDArray[np.uint8]:
    """A cut as uint8[size,size], scanned at `matrix` times that side."""
    found = Image.fromarray(lung_window(hounsfield(patient, z, round(size * matrix))))
    return np.asarray(found.resize((size, size), Image.Resampling.BILINEAR))


def _diseased_heights(patient: Patient, count: int) -> list[float]:
    """Heights at which the patient shows disease, by a coarse drawing; the worst of them again where there are few."""
    rng = np.random.default_rng([*patient.seed, 17])
    coarse = 48
    pixel_cm2 = (FIELD_OF_VIEW_MM / coarse / 10) ** 2
    tried = [
        (z, float(Slice(patient, z, coarse).disease().sum()) * pixel_cm2)
        for z in map(float, rng.uniform(0.12, 0.82, 6 * count))
    ]
    found = [z for z, area in tried if area >= DISEASED_CM2]
    worst = max(tried, key=lambda one: one[1])[0]
    return (found + [worst] * count)[:count]
