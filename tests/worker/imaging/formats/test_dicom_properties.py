"""Any CT that the standard allows reads back exactly; any bytes that look like one are read or rejected."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from db.reasons import OF_FILES
from tests.worker.imaging.builders import ct_dataset, dataset_bytes, dicom
from tests.worker.imaging.formats.test_dicom_pixels import BASE, LOSSLESS, compressed, picture
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.hounsfield import HU_RANGE, STEP
from worker.imaging.recipe import fit, lung_window
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

LIMITS = DecodeLimits(max_pixels=200_000)
NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
OF_32_BITS = (*NATIVE[:2], DeflatedExplicitVRLittleEndian, f"{BASE}.8.1")
SMALLEST_JPEG2000 = 4  # a side; OpenJPEG refuses to encode less with its default resolutions


@st.composite
def ct_files(draw: st.DrawFn) -> tuple[bytes, np.ndarray[Any, Any]]:
    """A file of any syntax, bits, sign, rescale and padding, and its greys by the standard's formulas."""
    syntax = draw(st.sampled_from([*NATIVE, *LOSSLESS]))
    allocated = draw(st.sampled_from([8, 16, 32] if syntax in OF_32_BITS else [8, 16]))
    stored = draw(st.integers(2, allocated))
    signed = draw(st.booleans())
    rows, columns = draw(st.integers(SMALLEST_JPEG2000, 24)), draw(st.integers(SMALLEST_JPEG2000, 24))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    values = random.integers(0, 1 << stored, (rows, columns))
    numbers = as_numbers(values, stored) if signed else values
    slope = draw(st.sampled_from([1.0, 0.5, 2.0, -1.0]))
    intercept = draw(st.sampled_from([0.0, -1024.0, -8192.0, 12.5]))
    lowest, highest = (-(1 << 15), (1 << 15) - 1) if signed else (0, (1 << 16) - 1)  # of US and SS
    padding = draw(st.none() | st.sampled_from(numbers.clip(lowest, highest).ravel().tolist()))
    inverted = draw(st.booleans())
    unused = {
        "zero": np.zeros_like(values),
        "the sign": numbers >> stored,
        "an overlay": random.integers(0, 1 << allocated, values.shape) >> stored,
    }[draw(st.sampled_from(["zero", "the sign", "an overlay"]))]
    bits = (values | unused << stored) & ((1 << allocated) - 1)

    is_padding = np.zeros_like(values, bool)
    if padding is not None:
        is_padding = (numbers == padding) | ((as_numbers(bits, allocated) if signed else bits) == padding)
    sample = (numbers * slope + intercept)[::STEP, ::STEP][~is_padding[::STEP, ::STEP]]
    assume(np.count_nonzero(sample > HU_RANGE[1]) <= sample.size / 2)  # others are rejected
    grey = lung_window(numbers * slope + intercept)
    grey = 255 - grey if inverted else grey
    grey[is_padding] = 0
    cells = bits.astype(f"u{allocated // 8}")
    states: dict[str, Any] = {
        "BitsStored": stored,
        "HighBit": stored - 1,
        "PixelRepresentation": int(signed),
        "RescaleSlope": slope,
        "RescaleIntercept": intercept,
        "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "PixelPaddingValue": padding,
    }
    if syntax in NATIVE:
        data = written(ct_dataset(cells, **states), syntax, allocated)
    else:
        frame = LOSSLESS[syntax](cells.view(f"i{allocated // 8}") if signed and syntax.endswith(".90") else cells)
        data = compressed([frame], ct_dataset(cells, **states), syntax)
    return data, fit(Image.fromarray(grey))


def as_numbers(bits: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """Two's complement."""
    signed: np.ndarray[Any, Any] = bits - ((bits >> (width - 1)) << width)
    return signed


def written(dataset: Dataset, syntax: str, allocated: int) -> bytes:
    """An uncompressed file of this transfer syntax; cells of 8 bits stay in their order."""
    if syntax == ExplicitVRBigEndian and allocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(ct_files())
def test_every_ct_file_reads_back_exactly(file: tuple[bytes, np.ndarray[Any, Any]]) -> None:
    data, expected = file
    (slice_,) = decode(data, LIMITS)
    assert (slice_.pixels == expected).all()


@st.composite
def groups(draw: st.DrawFn) -> Dataset:
    """Elements that say nothing of the pixels: private ones, sequences, odd texts."""
    dataset = Dataset()
    item = Dataset()
    for number in range(draw(st.integers(0, 4))):
        item.CodeMeaning = draw(st.text("abc \\^=é", max_size=20))
        sequence = Sequence([item] * draw(st.integers(0, 2)))
        block = dataset.private_block(0x0009 + 2 * number, f"MAKER {number}", create=True)
        block.add_new(0x10, "SQ", sequence)
        block.add_new(0x11, "UN", draw(st.binary(max_size=30)))
        block.add_new(0x12, "LO", draw(st.text("abc", max_size=30)))
    dataset.ReferencedImageSequence = Sequence([item])
    dataset["ReferencedImageSequence"].is_undefined_length = draw(st.booleans())
    return dataset


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(groups(), st.booleans())
def test_other_elements_change_no_pixel(extra: Dataset, implicit: bool) -> None:
    stored, states = picture("12 bits")
    dataset = ct_dataset(stored, **states)
    dataset.update(extra)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    (slice_,) = decode(dataset_bytes(dataset, implicit=implicit), LIMITS)
    (plain,) = decode(dicom(stored, **states), LIMITS)
    assert slice_.sha256_pixels == plain.sha256_pixels


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, LIMITS) as pool:
        yield pool


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A compressed file with some bytes changed, or cut."""
    stored, states = picture("12 bits")
    syntax = draw(st.sampled_from(list(LOSSLESS)))
    data = bytearray(compressed([LOSSLESS[syntax](stored)], ct_dataset(stored, **states), syntax))
    for at, value in draw(st.lists(st.tuples(st.integers(132, len(data) - 1), st.integers(0, 255)), max_size=5)):
        data[at] = value
    return bytes(data[: draw(st.integers(132, len(data)))])


@pytest.mark.slow
@settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(damaged())
def test_damaged_compressed_files_end_in_slices_or_a_reason(pool: DecoderPool, data: bytes) -> None:
    ((_, result),) = pool.map([(0, data)])
    if isinstance(result, SliceRejected):
        assert result.code in OF_FILES
    else:
        assert len(result) >= 1
