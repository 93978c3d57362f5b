"""Files as people send them, and as nobody should, made on the spot."""

import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from worker.imaging.archives.archive import Content, Entry, Limits, read_entries

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def grey(width: int = 40, height: int = 30) -> NDArray[np.uint8]:
    """A picture in which no row, column or half is like another."""
    noise = np.random.default_rng(5).integers(0, 64, (height, width))
    ramp = np.linspace(0, 190, width)[None] * np.linspace(0.2, 1, height)[:, None]
    return (ramp + noise).astype(np.uint8)


def image(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    """A picture (that of `grey`) as a file of `kind`."""
    file = io.BytesIO()
    (picture or Image.fromarray(grey())).save(file, kind, **options)
    return file.getvalue()


def png(picture: Image.Image | None = None) -> bytes:
    return image("PNG", picture)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def ct_dataset(stored: NDArray[Any], **changes: Any) -> Dataset:
    """A CT slice of the given stored values; HU = stored - 1024. A change to None leaves the attribute out."""
    dataset = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": CT_IMAGE,
        "SOPInstanceUID": generate_uid(entropy_srcs=["slice"]),
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Secret^Name",
        "PatientID": "SECRET-ID",
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4",
        "SeriesNumber": 7,
        "SeriesDescription": "Thorax 1.0 Lunge",
        "InstanceNumber": 12,
        "ImagePositionPatient": [-100.0, -120.0, 55.5],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": stored.dtype.itemsize * 8,
        "BitsStored": stored.dtype.itemsize * 8,
        "HighBit": stored.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "RescaleType": "HU",
        "PixelData": stored.tobytes(),
    } | changes
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"
    return dataset


def dicom(
    stored: NDArray[Any] | None = None, *, implicit: bool = False, syntax: str | None = None, **changes: Any
) -> bytes:
    """`ct_dataset` as a file with preamble. Another `syntax` is claimed only: the encoding stays explicit, pixels in
    fragments where they would be compressed."""
    dataset = ct_dataset((grey().astype(np.int16) * 8) if stored is None else stored, **changes)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or CT_IMAGE
    meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.file_meta = meta
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    data = file.getvalue()
    if syntax is None:
        return data
    if syntax.startswith(("1.2.840.10008.1.2.4", "1.2.840.10008.1.2.5")):
        dataset.PixelData = encapsulate([dataset.PixelData])
        dataset["PixelData"].is_undefined_length = True
    del dataset.file_meta
    meta.TransferSyntaxUID = UID(syntax)
    header = io.BytesIO()
    pydicom.filewriter.write_file_meta_info(header, meta)
    return data[:132] + header.getvalue() + dataset_bytes(dataset, implicit=implicit)


def dataset_bytes(dataset: Dataset, *, implicit: bool = False) -> bytes:
    """A dataset alone, without preamble and file meta information."""
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    return file.getvalue()


@dataclass
class RawEntry:
    """A ZIP entry written field by field, true unless told otherwise."""

    name: bytes
    data: bytes
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed_size: int | None = None
    packed: bytes | None = None
    external: int = 0

    def stored(self) -> bytes:
        if self.packed is not None:
            return self.packed
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflater.compress(self.data) + deflater.flush() if self.method == 8 else self.data

    def fields(self) -> tuple[int, int, int]:
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.size is None else self.size
        return crc, len(self.stored()) if self.packed_size is None else self.packed_size, size

    def local(self) -> bytes:
        head = struct.pack(
            "<4s5H3I2H", b"PK\x03\x04", 20, self.flags, self.method, 0, 0, *self.fields(), len(self.name), 0
        )
        return head + self.name + self.stored()

    def central(self, offset: int) -> bytes:
        head = struct.pack("<4s6H", b"PK\x01\x02", 3 << 8 | 20, 20, self.flags, self.method, 0, 0)
        tail = struct.pack("<3I5H2I", *self.fields(), len(self.name), 0, 0, 0, 0, self.external, offset)
        return head + tail + self.name


def raw_zip(entries: Iterable[RawEntry], offsets: list[int] | None = None, body: bytes | None = None) -> bytes:
    """A ZIP of raw entries; `offsets` and `body` replace where the directory says they lie and what lies there."""
    parts, places, at = [], [], 0
    listed = list(entries)
    for entry in listed:
        places.append(at)
        parts.append(entry.local())
        at += len(parts[-1])
    content = b"".join(parts) if body is None else body
    directory = b"".join(e.central(place) for e, place in zip(listed, offsets or places, strict=True))
    return content + directory + end_record(len(listed), len(directory), len(content))


def end_record(count: int, size: int, start: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)


def listed(ordinal: int, name: str, size: int) -> Entry:
    """An entry that compares equal to one of these facts."""
    return Entry(ordinal, name, size, read=bytes)


def read_all(path: Path, limits: Limits | None = None, filename: str = "upload") -> list[tuple[Entry, Content]]:
    return [(entry, entry.read()) for entry in read_entries(path, filename, limits or Limits())]
