"""Stored values come out of every transfer syntax exactly, whatever a compressed stream says of signs and bits."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock, call

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.sequence import Sequence
from pydicom.uid import UID

from tests.worker.imaging.builders import CT_IMAGE, ct_dataset, dataset_bytes, dicom
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.formats.plain_jpeg import decode_jpeg_frame
from worker.imaging.recipe import PreparedSlice, fit, lung_window
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

LIMITS = DecodeLimits()
BASE = "1.2.840.10008.1.2"
ENHANCED_CT = CT_IMAGE + ".1"
Stored = np.ndarray[Any, Any]
Encode = Callable[[Stored], bytes]


def unsigned(encode: Encode) -> Encode:
    """For streams that know no sign."""
    return lambda stored: encode(stored.view(f"u{stored.dtype.itemsize}"))


def rle(stored: Stored) -> bytes:
    size = stored.dtype.itemsize * 8
    return bytes(
        RLELosslessEncoder.encode(
            stored.tobytes(), rows=stored.shape[0], columns=stored.shape[1], samples_per_pixel=1, bits_allocated=size,
            bits_stored=size, pixel_representation=0, photometric_interpretation="MONOCHROME2", number_of_frames=1,
        )
    )  # fmt: skip


def deflated_frame(stored: Stored) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(stored.tobytes()) + deflater.flush()


LOSSLESS: dict[str, Encode] = {
    f"{BASE}.4.57": unsigned(lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=4)),
    f"{BASE}.4.70": unsigned(lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1)),
    f"{BASE}.4.80": unsigned(imagecodecs.jpegls_encode),
    f"{BASE}.4.90": lambda a: imagecodecs.jpeg2k_encode(a, codecformat="J2K", level=0, reversible=True),
    f"{BASE}.4.201": unsigned(lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    f"{BASE}.4.110": unsigned(lambda a: imagecodecs.jpegxl_encode(a, lossless=True)),
    f"{BASE}.5": unsigned(rle),
    f"{BASE}.8.1": deflated_frame,
}
KINDS = {
    "12 bits": (np.uint16, 12),
    "16 bits": (np.uint16, 16),
    "16 bits, signed": (np.int16, 16),
    "8 bits": (np.uint8, 8),
}


def picture(kind: str, seed: int = 0) -> tuple[Stored, dict[str, Any]]:
    """A picture whose greys show each part of the lung window, and what its header states of bits."""
    dtype, bits = KINDS[kind]
    noise = np.random.default_rng(seed).integers(0, 90, (40, 48))
    ramp = np.linspace(-1400, 200, 48)[None].astype(int) + noise
    states = {"BitsStored": bits, "HighBit": bits - 1}
    if dtype is np.uint8:
        return ((ramp + 1400) // 8).astype(np.uint8), states | {"RescaleSlope": 8, "RescaleIntercept": -1400}
    if dtype is np.int16:
        return ramp.astype(np.int16), states | {"RescaleIntercept": 0}
    return (ramp + 1400).astype(np.uint16), states | {"RescaleIntercept": -1400}


def compressed(frames: list[bytes], dataset: Dataset, syntax: str, **how: Any) -> bytes:
    """A DICOM file of compressed frames."""
    dataset.PixelData = encapsulate(frames, **how)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, "1.2.3.4.5"
    meta.TransferSyntaxUID = UID(syntax)
    header = io.BytesIO()
    write_file_meta_info(header, meta)
    return bytes(128) + b"DICM" + header.getvalue() + dataset_bytes(dataset)


def only(data: bytes) -> PreparedSlice:
    (slice_,) = decode(data, LIMITS)
    return slice_


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntax_gives_the_pixels_of_its_uncompressed_twin(syntax: str, kind: str) -> None:
    stored, states = picture(kind)
    frame = LOSSLESS[syntax](stored)
    assert (
        only(compressed([frame], ct_dataset(stored, **states), syntax)).sha256_pixels
        == only(dicom(stored, **states)).sha256_pixels
    )


@pytest.mark.parametrize("predictor", range(1, 8))
def test_each_predictor_of_lossless_jpeg_gives_signed_pixels(predictor: int) -> None:
    """dcm2niix 1.0.20260724 computes 5, 6 and 7 with signed numbers, so most of its pixels are wrong."""
    stored, states = picture("16 bits, signed")
    frame = imagecodecs.jpeg8_encode(stored.view(np.uint16), lossless=True, predictor=predictor, bitspersample=16)
    found = only(compressed([frame], ct_dataset(stored, **states), f"{BASE}.4.57"))
    assert found.sha256_pixels == only(dicom(stored, **states)).sha256_pixels


@pytest.mark.parametrize("shift", range(4))
def test_lossless_jpeg_with_a_point_transform_gives_its_pixels(shift: int) -> None:
    """pylibjpeg-libjpeg 2.5.0, dcm2niix 1.0.20260724 and `ljpeg_decode` of imagecodecs 2026.3.6 read others."""
    stored, states = picture("12 bits")
    stored = stored >> shift << shift
    frame = bytearray(imagecodecs.jpeg8_encode(stored >> shift, lossless=True, predictor=1, bitspersample=12 - shift))
    frame[frame.index(b"\xff\xc3") + 4] = 12  # SOF3: the bits before the division
    scan = frame.index(b"\xff\xda") + 2
    frame[scan + int.from_bytes(frame[scan : scan + 2], "big") - 1] |= shift  # SOS: Ah and Al
    found = only(compressed([bytes(frame)], ct_dataset(stored, **states), f"{BASE}.4.70"))
    assert found.sha256_pixels == only(dicom(stored, **states)).sha256_pixels


def jpeg_ls(stored: Stored, maxval: int) -> bytes:
    """A JPEG-LS frame of 16 bits that states this highest value."""
    frame = imagecodecs.jpegls_encode(stored)
    at = frame.index(b"\xff\xf8\0\x0d\1") + 5
    return frame[:at] + maxval.to_bytes(2, "big") + frame[at + 2 :]


@pytest.mark.parametrize("maxval", [0, 65535])
def test_jpeg_ls_that_states_the_highest_value_of_its_bits_is_read(maxval: int) -> None:
    stored, states = picture("12 bits")
    found = only(compressed([jpeg_ls(stored, maxval)], ct_dataset(stored, **states), f"{BASE}.4.80"))
    assert found.sha256_pixels == only(dicom(stored, **states)).sha256_pixels


@pytest.mark.parametrize("syntax", [f"{BASE}.4.80", f"{BASE}.4.81", f"{BASE}.1"])
def test_jpeg_ls_that_states_a_lower_highest_value_is_unsupported(syntax: str) -> None:
    """CharLS 2.4.3 (imagecodecs 2026.3.6) does not use the value, and gives wrong pixels without an error."""
    stored, states = picture("12 bits")
    assert code(compressed([jpeg_ls(stored, 65520)], ct_dataset(stored, **states), syntax)) == "unsupported"


@pytest.mark.parametrize("implicit", [False, True])
def test_lookup_table_for_display_changes_nothing(implicit: bool) -> None:
    """In implicit VR, pydicom 3.0.2 reads the first value of such a table as unsigned, and draws the slice black."""
    stored, states = picture("12 bits")
    table = Dataset()
    table.add_new("LUTDescriptor", "SS", [1501, -1350, 16])
    table.add_new("LUTData", "OW", np.linspace(65535, 0, 1501).astype(np.uint16).tobytes())
    data = dataset_bytes(ct_dataset(stored, **states, VOILUTSequence=[table]), implicit=implicit)
    assert only(data).sha256_pixels == only(dicom(stored, **states)).sha256_pixels


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (f"{BASE}.4.50", lambda a: imagecodecs.jpeg8_encode(a, level=98)),
        (f"{BASE}.4.81", lambda a: imagecodecs.jpegls_encode(a, level=2)),
        (f"{BASE}.4.91", lambda a: imagecodecs.jpeg2k_encode(a, codecformat="J2K", level=60)),
        (f"{BASE}.4.203", lambda a: imagecodecs.htj2k_encode(a, reversible=False)),
    ],
    ids=["JPEG baseline", "JPEG-LS near lossless", "JPEG 2000", "HTJ2K"],
)
def test_lossy_syntax_gives_nearly_the_pixels_of_its_uncompressed_twin(syntax: str, encode: Encode) -> None:
    smooth = np.linspace(0, 200, 48)[None] * np.linspace(0.5, 1, 40)[:, None]
    stored, states = smooth.astype(np.uint8), {"RescaleSlope": 8, "RescaleIntercept": -1400}
    found = only(compressed([encode(stored)], ct_dataset(stored, **states), syntax)).pixels.astype(int)
    expected = only(dicom(stored, **states)).pixels.astype(int)
    assert expected.std() > 0
    assert np.abs(found - expected).max() <= 12, "a stored value is 8 HU, which are 1.4 greys"


def test_twelve_bit_jpeg_is_read() -> None:
    stored = (np.linspace(0, 1600, 48)[None] * np.linspace(0.5, 1, 40)[:, None]).astype(np.uint16)
    states = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": -1400}
    frame = imagecodecs.jpeg8_encode(stored, level=98, bitspersample=12)
    found = only(compressed([frame], ct_dataset(stored, **states), f"{BASE}.4.51")).pixels.astype(int)
    assert np.abs(found - only(dicom(stored, **states)).pixels).max() <= 4


@pytest.mark.parametrize("syntax", [f"{BASE}.4.80", f"{BASE}.4.90", f"{BASE}.4.70"])
def test_signed_values_whose_unused_bits_are_zero_keep_their_sign(syntax: str) -> None:
    """As dcmcjpls writes 12 bits in a stream of 16: a reader that believes the stream sees -1 as 4095."""
    hu = picture("16 bits, signed")[0]
    twelve = (hu & 0x0FFF).astype(np.uint16)
    states = {"BitsStored": 12, "HighBit": 11, "RescaleIntercept": 0, "PixelRepresentation": 1}
    frame = LOSSLESS[syntax](twelve)
    found = only(compressed([frame], ct_dataset(twelve, **states), syntax))
    assert found.sha256_pixels == only(dicom(hu, RescaleIntercept=0)).sha256_pixels


def test_unsigned_stream_in_a_signed_data_set_is_signed() -> None:
    hu = picture("16 bits, signed")[0]
    frame = imagecodecs.jpeg2k_encode(hu.view(np.uint16), codecformat="J2K", level=0, reversible=True)
    found = only(compressed([frame], ct_dataset(hu, RescaleIntercept=0), f"{BASE}.4.90"))
    assert found.sha256_pixels == only(dicom(hu, RescaleIntercept=0)).sha256_pixels


def test_a_frame_in_several_fragments_is_put_together() -> None:
    stored, states = picture("12 bits")
    frame = LOSSLESS[f"{BASE}.4.90"](stored)
    for how in ({"fragments_per_frame": 3}, {"has_bot": False, "fragments_per_frame": 2}):
        data = compressed([frame], ct_dataset(stored, **states), f"{BASE}.4.90", **how)
        assert only(data).sha256_pixels == only(dicom(stored, **states)).sha256_pixels


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_frames_in_fragments_need_no_offset_table(syntax: str) -> None:
    """Two fragments a frame are parted by the marks of JPEG; RLE in fragments is not legal, and seen."""
    hu = picture("16 bits, signed")[0]
    stored = [hu + 1000, hu + 500, hu]
    expected = only(dicom(hu, RescaleIntercept=0)).sha256_pixels
    frames = [LOSSLESS[syntax](each) for each in stored]
    has_marks = syntax.startswith(f"{BASE}.4.") and not syntax.endswith(".110")
    for how in ({"has_bot": False}, {"fragments_per_frame": 2}, {"has_bot": False, "fragments_per_frame": 2}):
        dataset = enhanced(stored, [-1000, -500, 0], [3.0, 1.5, -2.0])
        if len(how) < 2 or has_marks:
            slices = decode(compressed(frames, dataset, syntax, **how), LIMITS)
            assert [slice_.sha256_pixels for slice_ in slices] == [expected] * 3, how
    alone = compressed(frames[2:], ct_dataset(hu, RescaleIntercept=0), syntax, has_bot=False, fragments_per_frame=2)
    assert only(alone).sha256_pixels == expected


def test_offset_table_may_have_an_offset_too_many() -> None:
    hu = picture("16 bits, signed")[0]
    dataset = enhanced([hu, hu], [0, 0], [0.0, 1.0])
    expected = only(dicom(hu, RescaleIntercept=0)).sha256_pixels
    whole = compressed([LOSSLESS[f"{BASE}.4.80"](hu)] * 2, dataset, f"{BASE}.4.80")
    item = b"\xfe\xff\x00\xe0"
    table = whole.index(item + struct.pack("<2I", 8, 0))
    longer = whole[:table] + item + struct.pack("<I", 12) + whole[table + 8 : table + 16] + bytes(4)
    assert [slice_.sha256_pixels for slice_ in decode(longer + whole[table + 16 :], LIMITS)] == [expected] * 2


@pytest.mark.parametrize("stored_bits", [12, 15, 16, 24, 32])
@pytest.mark.parametrize("syntax", [f"{BASE}.1", f"{BASE}.8.1", f"{BASE}.4.90"])
def test_words_of_32_bits_give_the_pixels_of_16(syntax: str, stored_bits: int) -> None:
    hu = picture("16 bits, signed")[0]
    wide, bits = hu.astype(np.int32), {"BitsStored": stored_bits, "HighBit": stored_bits - 1, "RescaleIntercept": 0}
    dataset = ct_dataset(wide, **bits, PixelPaddingValue=-1)
    file = dicom(wide, **bits, PixelPaddingValue=-1)
    if syntax != f"{BASE}.1":
        file = compressed([LOSSLESS[syntax](wide)], dataset, syntax)
    assert only(file).sha256_pixels == only(dicom(hu, RescaleIntercept=0, PixelPaddingValue=-1)).sha256_pixels


def test_big_endian_words_of_32_bits_are_unsupported() -> None:
    dataset = ct_dataset(picture("16 bits, signed")[0].astype(np.int32))
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = CT_IMAGE, "1.2.3"
    dataset.file_meta.TransferSyntaxUID = UID(f"{BASE}.2")
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    assert code(file.getvalue()) == "unsupported"


def test_fragment_longer_than_the_file_is_malformed() -> None:
    stored, states = picture("12 bits")
    whole = compressed([LOSSLESS[f"{BASE}.5"](stored)], ct_dataset(stored, **states), f"{BASE}.5")
    assert code(whole[:-40]) == "malformed"


def test_padding_is_black_after_lossy_coding_too() -> None:
    stored = np.random.default_rng(0).integers(900, 1100, (64, 64)).astype(np.uint16)
    is_padding = np.arange(64) % 16 < 8
    stored[:, is_padding] = 30
    states = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 30, "RescaleIntercept": -1024}
    frame = imagecodecs.jpegls_encode(stored, level=2)
    moved = imagecodecs.jpegls_decode(frame)
    assert (moved[:, is_padding] != 30).any()
    expected = lung_window(moved - 1024.0)
    expected[:, is_padding] = 0
    found = only(compressed([frame], ct_dataset(stored, **states), f"{BASE}.4.81")).pixels
    assert (found == fit(Image.fromarray(expected))).all()


def test_fragments_under_an_uncompressed_syntax_are_known_by_their_first_bytes() -> None:
    stored, states = picture("12 bits")
    for syntax in (f"{BASE}.4.90", f"{BASE}.4.80", f"{BASE}.4.70"):
        data = compressed([LOSSLESS[syntax](stored)], ct_dataset(stored, **states), f"{BASE}.1")
        assert only(data).sha256_pixels == only(dicom(stored, **states)).sha256_pixels


@pytest.mark.parametrize("kind", KINDS)
def test_big_endian_and_deflated_data_sets_are_read(kind: str) -> None:
    stored, states = picture(kind)
    expected = only(dicom(stored, **states)).sha256_pixels
    for syntax in (f"{BASE}.2", f"{BASE}.1.99"):
        dataset = ct_dataset(stored, **states)
        if syntax == f"{BASE}.2":
            dataset.PixelData = (
                stored.tobytes() if kind == "8 bits" else stored.astype(stored.dtype.newbyteorder(">")).tobytes()
            )
            dataset["PixelData"].VR = "OB" if kind == "8 bits" else "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        file = io.BytesIO()
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        assert only(file.getvalue()).sha256_pixels == expected, syntax
        if syntax == f"{BASE}.2":
            body = file.getvalue().index(b"\0\x08\0\x08CS")
            assert only(file.getvalue()[body:]).sha256_pixels == expected, "the data set alone"


def enhanced(stored: list[Stored], intercepts: list[int], positions: list[float], **changes: Any) -> Dataset:
    """An Enhanced CT of a frame each, whose rescale and position are stated frame by frame."""
    dataset = ct_dataset(
        stored[0], SOPClassUID=ENHANCED_CT, NumberOfFrames=len(stored), PixelData=np.stack(stored).tobytes(),
        RescaleSlope=None, RescaleIntercept=None, ImagePositionPatient=None, ImageOrientationPatient=None,
    )  # fmt: skip
    orientation = Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([orientation])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames = []
    for intercept, position in zip(intercepts, positions, strict=True):
        values, place, frame = Dataset(), Dataset(), Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 1, intercept, "HU"
        place.ImagePositionPatient = [0, 0, position]
        frame.PixelValueTransformationSequence = Sequence([values])
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset


def test_frames_of_enhanced_ct_have_a_rescale_and_a_position_each() -> None:
    hu = picture("16 bits, signed")[0]
    stored = [hu + 1000, hu + 500, hu]
    expected = only(dicom(hu, RescaleIntercept=0)).sha256_pixels
    for data in (
        dataset_bytes(enhanced(stored, [-1000, -500, 0], [3.0, 1.5, -2.0])),
        dataset_bytes(enhanced(stored, [-1000, -500, 0], [3.0, 1.5, -2.0]), implicit=True),
        compressed(
            [LOSSLESS[f"{BASE}.4.80"](each) for each in stored],
            enhanced(stored, [-1000, -500, 0], [3.0, 1.5, -2.0]),
            f"{BASE}.4.80",
        ),
    ):
        slices = decode(data, LIMITS)
        assert [slice_.sha256_pixels for slice_ in slices] == [expected] * 3
        assert [slice_.series and slice_.series.position for slice_ in slices] == [3.0, 1.5, -2.0]
        assert [slice_.frame for slice_ in slices] == [0, 1, 2]


def test_frames_of_enhanced_ct_in_any_order_have_their_own_places() -> None:
    """dicom2nifti 2.6.2, SimpleITK 2.5.7 and dcm2niix 1.0.20260724 put frames of some such files in wrong places."""
    hu = picture("16 bits, signed")[0]
    places = [6.0, 0.0, 4.0, 2.0, 10.0, 0.0]
    slices = decode(dataset_bytes(enhanced([hu] * 6, [0] * 6, places)), LIMITS)
    assert [slice_.series and slice_.series.position for slice_ in slices] == places


def test_rescale_that_all_frames_share_holds_for_each() -> None:
    hu = picture("16 bits, signed")[0]
    dataset = enhanced([hu + 500, hu + 500], [0, 0], [0.0, 1.0])
    values = dataset.PerFrameFunctionalGroupsSequence[0].PixelValueTransformationSequence
    values[0].RescaleIntercept = -500
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        del frame.PixelValueTransformationSequence
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = values
    slices = decode(dataset_bytes(dataset), LIMITS)
    assert [s.sha256_pixels for s in slices] == [only(dicom(hu, RescaleIntercept=0)).sha256_pixels] * 2


def test_more_frames_than_accepted_are_pages() -> None:
    hu = picture("16 bits, signed")[0]
    with pytest.raises(SliceRejected) as rejected:
        decode(dataset_bytes(enhanced([hu] * 3, [0] * 3, [0.0, 1.0, 2.0])), DecodeLimits(max_pages=2))
    assert rejected.value.code == "pages"


def test_localiser_frame_sets_enhanced_ct_apart() -> None:
    hu = picture("16 bits, signed")[0]
    dataset = enhanced([hu], [0], [0.0])
    kind = Dataset()
    kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
    dataset.PerFrameFunctionalGroupsSequence[0].CTImageFrameTypeSequence = Sequence([kind])
    with pytest.raises(SliceRejected) as rejected:
        decode(dataset_bytes(dataset), LIMITS)
    assert rejected.value.code == "localizer"


def code(data: bytes) -> str:
    with pytest.raises(SliceRejected) as rejected:
        decode(data, LIMITS)
    return rejected.value.code


def test_compressed_frames_that_do_not_fit_the_header_are_rejected() -> None:
    stored, states = picture("12 bits")
    syntax = f"{BASE}.4.90"
    frame = LOSSLESS[syntax](stored)
    assert code(compressed([frame], ct_dataset(stored, **states, Rows=39), syntax)) == "pixels"
    turned = {"Rows": stored.shape[1], "Columns": stored.shape[0]}
    assert code(compressed([frame], ct_dataset(stored, **states | turned), syntax)) == "pixels"
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    assert code(compressed([frame], ct_dataset(stored, **states | eight), syntax)) == "pixels"
    assert code(compressed([frame], ct_dataset(stored, **states, NumberOfFrames=2), syntax)) == "pixels"
    assert code(compressed([frame], ct_dataset(stored, **states), f"{BASE}.4.100")) == "unsupported"


@pytest.mark.parametrize("header", [(0,), (1, 64), (3, 64, 70, 80), (2, 64, 0), (2, 0, 90), (2, 90, 64)])
def test_damaged_header_of_rle_is_malformed(header: tuple[int, ...]) -> None:
    stored, states = picture("12 bits")
    frame = struct.pack("<16I", *header, *(16 - len(header)) * [0]) + rle(stored.view(np.uint16))[64:]
    with pytest.raises(SliceRejected, match="header") as rejected:
        decode(compressed([frame], ct_dataset(stored, **states), f"{BASE}.5"), LIMITS)
    assert rejected.value.code == "malformed"


@pytest.mark.parametrize("syntax", LOSSLESS)
def test_frame_that_is_cut_is_never_filled_up(syntax: str) -> None:
    stored, states = picture("12 bits")
    frame = LOSSLESS[syntax](stored)
    for share in (0.3, 0.6, 0.95):
        cut = frame[: int(len(frame) * share)]
        found = code(compressed([cut], ct_dataset(stored, **states), syntax))
        assert found in ("truncated", "malformed", "pixels"), share


WITH_END_MARK = [syntax for syntax in LOSSLESS if syntax.startswith(f"{BASE}.4.") and syntax != f"{BASE}.4.110"]


@pytest.mark.parametrize("padding", [15, 32, 512, 4096])
@pytest.mark.parametrize("syntax", WITH_END_MARK)
def test_zeros_after_the_end_mark_of_a_frame_are_padding(syntax: str, padding: int) -> None:
    stored, states = picture("12 bits")
    frame = LOSSLESS[syntax](stored)
    padded = only(compressed([frame + bytes(padding)], ct_dataset(stored, **states), syntax))
    assert padded.sha256_pixels == only(dicom(stored, **states)).sha256_pixels


@pytest.mark.parametrize("syntax", WITH_END_MARK)
def test_frame_that_is_cut_and_filled_with_zeros_is_truncated(syntax: str) -> None:
    stored, states = picture("12 bits")
    frame = LOSSLESS[syntax](stored)
    for end in (len(frame) * 3 // 10, len(frame) * 6 // 10, len(frame) - 40, len(frame) - 1):
        filled = frame[:end].ljust(len(frame), b"\0")
        for padding in (0, 32):
            cut = compressed([filled + bytes(padding)], ct_dataset(stored, **states), syntax)
            assert code(cut) == "truncated", (end, padding)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, LIMITS) as pool:
        yield pool


def test_the_sandbox_reads_every_syntax(pool: DecoderPool) -> None:
    stored, states = picture("12 bits")
    big = np.tile(stored, (12, 10))
    expected = only(dicom(big, **states)).sha256_pixels
    files = [compressed([encode(big)], ct_dataset(big, **states), syntax) for syntax, encode in LOSSLESS.items()]
    for syntax, (_, result) in zip(LOSSLESS, pool.map(enumerate(files)), strict=True):
        assert isinstance(result, list), (syntax, result)
        assert result[0].sha256_pixels == expected, syntax


NOISE = (1000 + np.random.default_rng(3).integers(-20, 21, (48, 64)).cumsum(1)).astype(np.uint16)
PADDED = np.where(np.hypot(*np.mgrid[-1:1:48j, -1:1:64j]) > 1, 0, NOISE).astype(np.uint16)


@pytest.mark.parametrize("stored", [NOISE, PADDED], ids=["noise", "padded"])
@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (f"{BASE}.4.57", LOSSLESS[f"{BASE}.4.57"]),
        (f"{BASE}.4.70", LOSSLESS[f"{BASE}.4.70"]),
        (f"{BASE}.4.51", lambda a: imagecodecs.jpeg8_encode(a, level=95, bitspersample=12)),
        (f"{BASE}.4.50", lambda a: imagecodecs.jpeg8_encode((a >> 4).astype(np.uint8), level=95)),
    ],
)
def test_jpeg_frame_that_ends_too_early_is_truncated_in_spite_of_its_end_mark(
    syntax: str, encode: Encode, stored: Stored
) -> None:
    whole = encode(stored)
    kind = np.uint8 if syntax.endswith(".50") else np.uint16
    states = {"BitsStored": 12, "HighBit": 11} if kind == np.uint16 else {}
    data = [ct_dataset(np.zeros(stored.shape, kind), **states) for _ in range(2)]
    assert only(compressed([whole], data[0], syntax)).width == 64
    for share, end in ((0.4, b"\xff\xd9"), (0.6, b"\xff\xd9"), (0.8, b"\xff\xd9"), (0.6, b"\xff\xd9\xff\xd9")):
        with pytest.raises(SliceRejected) as rejected:
            decode(compressed([whole[: int(len(whole) * share)] + end], data[1], syntax), LIMITS)
        assert rejected.value.code == "truncated", share


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("stored", [NOISE, PADDED], ids=["noise", "padded"])
@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_jpeg_is_decoded_once_but_never_filled_up(
    predictor: int, stored: Stored, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = stored if bits == 12 else (stored >> 4).astype(np.uint8)
    whole = imagecodecs.jpeg8_encode(cells, lossless=True, predictor=predictor, bitspersample=bits)
    decoder = Mock(wraps=imagecodecs.jpeg8_decode)
    monkeypatch.setattr("worker.imaging.formats.plain_jpeg.jpeg8_decode", decoder)
    assert (decode_jpeg_frame(whole) == cells).all()
    assert bits == 8 or decoder.call_args_list == [
        call(whole)
    ]  # of 8 bits, the last pixels often look like those that bits of 0 give
    start = whole.index(b"\xff\xda") + 12
    for end in range(start, len(whole) - 30, 31):
        try:
            pixels = decode_jpeg_frame(whole[:end].rstrip(b"\xff") + b"\xff\xd9")
        except SliceRejected as rejected:
            assert rejected.code == "truncated"  # noqa: PT017  (or it is read)
        else:
            assert (pixels == cells).all(), end  # the rest is padding, which bits of 0 give too
