"""Measures how many DICOM slices/s one core reads in each transfer syntax. Compares them with the codec alone."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    generate_uid,
)

from cli.output import print_report
from worker.engines.processor import read_processor
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.phantoms.anatomy import make_patient
from worker.phantoms.slices import hounsfield

SIDE = 512
ROUNDS = 5  # the quickest round counts, because other processes may slow down the others
Stored = NDArray[np.uint16]
CODECS: dict[str, tuple[UID, Callable[..., Any], Callable[..., Any]]] = {
    "JPEG Lossless": (
        JPEGLosslessSV1,
        partial(imagecodecs.jpeg8_encode, lossless=True, predictor=1),
        imagecodecs.jpeg8_decode,
    ),
    "JPEG-LS": (JPEGLSLossless, imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    "JPEG 2000": (
        JPEG2000Lossless,
        partial(imagecodecs.jpeg2k_encode, codecformat="J2K", level=0, reversible=True),
        partial(imagecodecs.jpeg2k_decode, numthreads=1),
    ),
    "HTJ2K": (HTJ2KLossless, partial(imagecodecs.htj2k_encode, reversible=True), imagecodecs.htj2k_decode),
}


def run(count: int, as_json: bool) -> None:
    """Read one slice (512 × 512 pixels, 16 bits) `count` times in each syntax.

    Print the slices/s of the whole decoder and of the codec alone. Also print the first speed divided by the second.
    """
    stored = (hounsfield(make_patient(7, 0, positive=True), 0.5, SIDE) + 1024).astype(np.uint16)
    report: dict[str, Any] = {"processor": read_processor().name, "uncompressed": _rate(_reader(_file(stored)), count)}
    for name, (syntax, encode, codec) in CODECS.items():
        frame = encode(stored)
        alone = _rate(partial(codec, frame), count)
        whole = _rate(_reader(_file(stored, syntax, frame)), count)
        report[name] = {"slices_per_second": whole, "codec_alone": alone, "share": round(whole / alone, 3)}
    print_report(report, as_json)


def _reader(data: bytes) -> Callable[[], object]:
    return partial(decode, data, DecodeLimits())


def _rate(act: Callable[[], object], count: int) -> float:
    """Return how often `act` runs in a second of processor time, in the quickest round of `count` calls."""
    act()
    seconds = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        for _ in range(count):
            act()
        seconds.append(time.process_time() - begin)
    return round(count / min(seconds), 1)


def _file(stored: Stored, syntax: UID = ExplicitVRLittleEndian, frame: bytes | None = None) -> bytes:
    """Return a CT slice as a DICOM file. `frame`: the encoded pixels, or None for an uncompressed file."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = CTImageStorage, generate_uid(), "CT"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = stored.tobytes() if frame is None else encapsulate([frame])
    dataset["PixelData"].VR = "OW" if frame is None else "OB"
    dataset["PixelData"].is_undefined_length = frame is not None
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    file = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return bytes(file.getvalue())
