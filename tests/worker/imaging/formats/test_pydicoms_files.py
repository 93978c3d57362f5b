"""Every file of pydicom's test sets that is installed is read, or refused with its reason; twins have the same pixels.

pydicom brings some; the package pydicom-data has more, and is looked for.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest

from db.reasons import OF_FILES
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.formats.dicom_file import read_dicom
from worker.imaging.formats.dicom_pixels import frames_of
from worker.imaging.formats.dicom_values import integer_of
from worker.imaging.rejections import SliceRejected

LIMITS = DecodeLimits(set_apart=())
MORE = find_spec("data_store")
FOLDERS = [Path(pydicom.__file__).parent / "data", *map(Path, (MORE and MORE.submodule_search_locations) or ())]
FILES = {path.name: path for folder in FOLDERS for path in sorted(folder.rglob("*")) if path.is_file()}
CT = {"CT_small.dcm", "J2K_pixelrep_mismatch.dcm", "693_J2KI.dcm", "693_J2KR.dcm", "693_UNCI.dcm", "693_UNCR.dcm"}
CT |= {"bad_sequence.dcm", "eCT_Supplemental.dcm"}
TWINS = {
    "MR_small.dcm": "_RLE _bigendian _expb _implicit _jp2klossless _jpeg_ls_lossless _padded",
    "emri_small.dcm": "_RLE _big_endian _jpeg_ls_lossless _jpeg_2k_lossless",
    "OBXXXX1A.dcm": "_expb _rle",
    "OBXXXX1A_2frame.dcm": "OBXXXX1A_expb_2frame OBXXXX1A_rle_2frame",
} | {f"{name}_UNCR.dcm": f"{name}_J2KR" for name in ("693", "MR2", "RG1", "RG3")}


def pairs() -> list[tuple[str, str]]:
    """The uncompressed file and its twin, of those that are installed."""
    named = [
        (first, f"{first.removesuffix('.dcm') if twin.startswith('_') else ''}{twin}.dcm")
        for first, twins in TWINS.items()
        for twin in twins.split()
    ]
    return [pair for pair in named if set(pair) <= FILES.keys()]


def test_every_file_is_read_or_refused_with_its_reason() -> None:
    is_read, codes = set(), set()
    for name, path in FILES.items():
        try:
            is_read |= {name} if decode(path.read_bytes(), LIMITS) else set()
        except SliceRejected as rejected:
            codes.add(rejected.code)
    assert codes <= OF_FILES.keys()
    assert CT & FILES.keys() <= is_read


@pytest.mark.parametrize(("first", "twin"), pairs())
def test_lossless_file_has_the_pixels_of_its_uncompressed_twin(first: str, twin: str) -> None:
    assert np.array_equal(cells_of(first), cells_of(twin))


def cells_of(name: str) -> np.ndarray:  # type: ignore[type-arg]
    """The stored values of all frames as numbers; files of one scan may state other bits."""
    file = read_dicom(memoryview(FILES[name].read_bytes()), 1 << 28)
    sizes = (integer_of(file.dataset, keyword) for keyword in ("Rows", "Columns", "BitsAllocated"))
    frames = np.stack(list(frames_of(file, integer_of(file.dataset, "NumberOfFrames", 1), *sizes)))
    bits, signed = (integer_of(file.dataset, keyword) for keyword in ("BitsStored", "PixelRepresentation"))
    numbers = frames.astype(np.int64) & ((1 << bits) - 1)
    return numbers - ((numbers >> (bits - 1)) << bits) if signed else numbers
