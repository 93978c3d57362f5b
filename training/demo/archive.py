"""Writes the demo archive: synthetic scans in mixed formats, with a few damaged and odd files."""

import hashlib
import io
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from worker.imaging.recipe import lung_window
from worker.phantoms.anatomy import FIELD_OF_VIEW_MM, LUNG_HEIGHT_MM, Patient, make_patient
from worker.phantoms.slices import hounsfield

SLICES_A_SERIES = 40
# For each patient: the format, the side in pixels, and whether the patient is ill.
SERIES = (
    ("dcm", 512, True),
    ("png", 256, False),
    ("dcm", 256, False),
    ("jpg", 256, True),
    ("png", 320, True),
    ("dcm", 256, True),
)
_FIRST_PATIENT = 1_000_000  # far from the patients that the demo model is trained on
_TIME = (2020, 1, 1, 0, 0, 0)
_NAMESPACE = uuid.UUID("0d6f1d2c-7a51-5b0e-9d6e-4b1f0c2a9e77")  # our namespace for UIDs that are derived from a text


def write_demo_archive(path: Path, *, seed: int) -> None:
    """Write a ZIP of 240 slices in six series (DICOM, PNG, JPEG) and eight damaged or odd files.

    The same seed always gives the same bytes.

    The damaged or odd files are: a truncated PNG, a text named .png, an MR image, an archive in the archive, a PNG of
    60 megapixels, an empty file, a PNG with a wrong checksum in the ZIP, and an identical copy of a slice, which is
    valid.
    """
    first_png = b""
    with zipfile.ZipFile(path, "w") as archive:
        for number, (kind, size, ill) in enumerate(SERIES, start=1):
            patient = make_patient(seed, _FIRST_PATIENT + number, ill)
            for name, data in _series(patient, number, kind, size):
                first_png = first_png or (data if kind == "png" else b"")
                _add(archive, name, data)
        for name, data in _odd_files(seed, first_png):
            _add(archive, name, data)
        _add(archive, "odd/wrong-checksum.png", first_png)
        offset = archive.getinfo("odd/wrong-checksum.png").header_offset
    with path.open("r+b") as file:
        # 30: the length of a local header without its name
        at = offset + 30 + len("odd/wrong-checksum.png") + len(first_png) // 2
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a file. Store pictures, because they are compressed already. Deflate DICOM."""
    entry = zipfile.ZipInfo(name, _TIME)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED if name.endswith(".dcm") else zipfile.ZIP_STORED
    archive.writestr(entry, data, compresslevel=4)


def _series(patient: Patient, number: int, kind: str, size: int) -> Iterator[tuple[str, bytes]]:
    """Yield the files of one series, from the apex of the lungs to their base."""
    for instance, z in enumerate(np.linspace(0.08, 0.95, SLICES_A_SERIES), start=1):
        hu = hounsfield(patient, float(z), size)
        if kind == "dcm":
            data = _dicom(hu, number, instance, float(z))
        else:
            data = _picture(lung_window(hu), "PNG" if kind == "png" else "JPEG")
        yield f"PHANTOM-{number:02d}/slice-{instance:03d}.{kind}", data


def _picture(pixels: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": 92} if kind == "JPEG" else {}), **options)
    return buffer.getvalue()


def _uid(*parts: object) -> UID:
    """Return a UID that is derived from a UUID. Such a UID needs no registered root (DICOM PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}")


def _dicom(hu: NDArray[np.int16], number: int, instance: int, z: float, modality: str = "CT") -> bytes:
    """Return a CT (or MR) image of a phantom: unsigned 16 bit, HU by the rescale of CT scanners (PS3.3 C.11.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(number, instance, modality, hashlib.sha256(hu.tobytes()).hexdigest())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.Modality = modality
    image.PatientName, image.PatientID = f"PHANTOM^{number:02d}", f"PHANTOM-{number:02d}"
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "synthetic"
    image.StudyDate, image.StudyTime, image.AccessionNumber, image.StudyID = "20200101", "000000", "", str(number)
    image.StudyInstanceUID, image.SeriesInstanceUID = _uid("study", number), _uid("series", number, modality)
    image.FrameOfReferenceUID = _uid("frame", number)
    image.StudyDescription, image.SeriesDescription = "PHANTOM", "PHANTOM lung axial"
    image.SeriesNumber, image.InstanceNumber = number, instance
    image.SliceThickness = LUNG_HEIGHT_MM * 0.87 / SLICES_A_SERIES
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.ImagePositionPatient = [-FIELD_OF_VIEW_MM / 2, -FIELD_OF_VIEW_MM / 2, round(-z * LUNG_HEIGHT_MM, 2)]
    image.PixelSpacing = [FIELD_OF_VIEW_MM / hu.shape[0]] * 2
    image.BurnedInAnnotation = "NO"
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    if modality == "CT":
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
    image.WindowCenter, image.WindowWidth = -600, 1500
    image.PixelData = (hu.astype(np.int32) + 1024).astype("<u2").tobytes()
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _zip_of(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add(archive, name, data)
    return buffer.getvalue()


def _odd_files(seed: int, png: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield files that must be rejected, each for another reason, and a copy of a slice, which must be accepted."""
    yield "odd/truncated.png", png[: len(png) // 2]
    yield "odd/notes.png", b"These are notes about a phantom, not a picture.\n"
    brain = hounsfield(make_patient(seed, _FIRST_PATIENT, False), 0.5, 128)
    yield "odd/mr.dcm", _dicom(brain, 90, 1, 0.5, modality="MR")
    yield "odd/nested.zip", _zip_of("deeper.zip", _zip_of("slice.png", png))
    yield "odd/60-megapixels.png", _picture(np.zeros((6000, 10_000), np.uint8), "PNG", compress_level=1)
    yield "odd/empty.png", b""
    yield "odd/copy-of-a-slice.png", png
