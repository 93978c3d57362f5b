"""Synthetic patients as labelled slices to train on, and as an archive of mixed files to try the service with."""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from training.anatomy import FIELD_OF_VIEW_MM, LUNG_HEIGHT_MM, Patient, Slice, make_patient

LUNG_WINDOW = (-600.0, 1500.0)  # centre and width in HU, as in the recipe lung-224-v1
DISEASED = 0.03  # share of the lung in a slice from which the slice counts as positive
_UID_ROOT = "2.25"  # UIDs derived from a UUID need no registered root (DICOM PS3.5 B.2)
_ZIP_TIME = (2020, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class LabelledSlices:
    """`pixels` uint8[n,S,S], `labels` uint8[n] (1: diseased), `patients` int64[n]: split by them, never by slice."""

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
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)


def labelled_slices(
    seed: int, pairs: int, per_patient: int, *, first_pair: int = 0, size: int = 224
) -> LabelledSlices:
    """Draw `2 * pairs * per_patient` windowed slices, half of them positive.

    Patients come in pairs, an ill one and a healthy one cut at the same heights, so that height does not tell the class.
    An ill patient is cut where at least `DISEASED` of the lung shows disease: slices between that and none have no
    label. `first_pair` makes disjoint populations of one seed.
    """
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    patients: list[int] = []
    for pair in range(first_pair, first_pair + pairs):
        ill, healthy = make_patient(seed, 2 * pair, True), make_patient(seed, 2 * pair + 1, False)
        for z in _diseased_heights(ill, per_patient):
            for index, patient in ((2 * pair, ill), (2 * pair + 1, healthy)):
                pixels.append(lung_window(hounsfield(patient, z, size)))
                labels.append(int(patient.positive))
                patients.append(index)
    return LabelledSlices(np.stack(pixels), np.array(labels, np.uint8), np.array(patients, np.int64))


def _diseased_heights(patient: Patient, count: int) -> list[float]:
    """Heights at which the patient shows disease, by a coarse drawing."""
    rng = np.random.default_rng([*patient.seed, 17])
    tried = [(z, Slice(patient, z, 48).diseased()) for z in map(float, rng.uniform(0.04, 0.98, 6 * count))]
    found = [z for z, share in tried if share >= DISEASED]
    worst = max(tried, key=lambda one: one[1])[0]
    return (found + [worst] * count)[:count]
