#!/usr/bin/env bash
# CT in lossless JPEG with a point transform: three of seven decoders give wrong Hounsfield units, without a word:
# pydicom 3.0.2 with pylibjpeg-libjpeg 2.5.0, dcm2niix 1.0.20260724, and `ljpeg_decode` of imagecodecs 2026.3.6. Right
# are pydicom with python-gdcm 3.2.6, SimpleITK 2.5.7, dicomsdl 0.109.4 and libjpeg-turbo (imagecodecs' `jpeg8_decode`).
#
# The encoder divides all samples by a power of two before it codes them. Its exponent Pt, up to 15, is in the scan
# header, and the decoder multiplies by the power again (ITU-T T.81 A.4). The first prediction is then 2^(P - Pt - 1)
# instead of 2^(P - 1) (H.1.2.1). DICOM allows Process 14 as a whole (PS3.5 8.2.1, A.4.1), and does not exclude this.
# dcmtk's `dcmcjpeg +pt N` writes such files, and its `dcmdjpeg` (3.6.7) reads those below correctly (not run here). The
# three decoders that are wrong start from 2^(P - 1). Then pylibjpeg-libjpeg multiplies, `ljpeg_decode` does not, and
# dcm2niix divides each pixel by the power and predicts the next one from that. The input is a valid slice of 12 bits, a
# disc of tissue in air from -1024 to 64 HU. Its stored values are multiples of 8, so exponents up to 3 lose nothing.
# Seen, lowest to highest HU:
#   exponent 0: all seven decoders are right
#   exponent 1: pylibjpeg 1024 to 2112, dcm2niix -1024 to 3071, ljpeg_decode 0 to 544; the others are right
#   exponent 2: pylibjpeg 3071 to 3071, dcm2niix -1024 to 3071, ljpeg_decode 512 to 784; the others are right
#   exponent 3: pylibjpeg 3071 to 3071, dcm2niix -1024 to 3071, ljpeg_decode 768 to 904; the others are right
# pydicom prefers python-gdcm where it is installed, so the same code is right on one machine and wrong on another.
#
# What follows for whoever reads CT: look at the low four bits of the last byte of the scan header. If they are not 0,
# decode the slice with libjpeg-turbo or GDCM.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pydicom==3.0.2 pylibjpeg==2.1.0 \
    pylibjpeg-libjpeg==2.5.0 python-gdcm==3.2.6 SimpleITK==2.5.7 dicomsdl==0.109.4 dcm2niix==1.0.20260724 \
    imagecodecs==2026.3.6 nibabel==5.4.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import dicomsdl
import imagecodecs
import nibabel
import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import CTImageStorage, JPEGLosslessSV1, generate_uid

SIDE, BITS, INTERCEPT = 64, 12, -1024


def disc():
    """Return stored values, multiples of 8: a disc of 40 HU in air of -1000 HU, with noise of at most 24 HU."""
    row, column = np.mgrid[:SIDE, :SIDE]
    inside = (row - SIDE // 2) ** 2 + (column - SIDE // 2) ** 2 < 500
    return np.where(inside, 40, -1000) - INTERCEPT + 8 * np.random.default_rng(0).integers(-3, 4, (SIDE, SIDE))


def encode(stored, shift):
    """Code an array as lossless JPEG with predictor 1 and this point transform (ITU-T T.81 annex H)."""
    shifted = stored >> shift
    predicted = np.empty_like(shifted)
    predicted[:, 1:] = shifted[:, :-1]  # the pixel to the left, or at the start of a line the pixel above
    predicted[1:, 0] = shifted[:-1, 0]
    predicted[0, 0] = 1 << (BITS - shift - 1)
    bits = ""
    for number in (shifted - predicted).flat:
        size = int(abs(number)).bit_length()
        bits += f"{size:04b}"  # the code of each size is the size itself, in four bits
        if size:
            bits += f"{int(number) + (number < 0) * ((1 << size) - 1):0{size}b}"
    bits += "1" * (-len(bits) % 8)
    sizes = range(15)  # 1111 is no code, as the standard wants it
    table = bytes([0, 0, 0, 0, len(sizes), *[0] * 12, *sizes])
    frame = bytes([BITS, 0, SIDE, 0, SIDE, 1, 1, 0x11, 0])
    scan = bytes([1, 1, 0, 1, 0, shift])
    segments = ((0xC4, table), (0xC3, frame), (0xDA, scan))
    head = b"".join(bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body for kind, body in segments)
    coded = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + head + coded + b"\xff\xd9"


def write(path, coded):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.SeriesNumber = "", "", 1
    data.Modality, data.InstanceNumber, data.ImageType = "CT", 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.AcquisitionNumber = "none", 120, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [1, 1], 1, SIDE, SIDE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, BITS, BITS - 1, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, INTERCEPT, "HU"
    data.PixelData = encapsulate([coded])
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)


def by_pydicom(plugin):
    def read(path):
        data = dcmread(path)
        data.pixel_array_options(decoding_plugin=plugin)
        return data.pixel_array.astype(np.int64) + INTERCEPT

    return read


def by_imagecodecs(decode):
    return lambda path: decode(get_frame(dcmread(path).PixelData, 0, number_of_frames=1)).astype(np.int64) + INTERCEPT


def by_dcm2niix(path):
    out = path.parent / "nifti"
    out.mkdir()
    command = [Path(sys.executable).with_name("dcm2niix"), "-b", "n", "-f", "out", "-o", out, path.parent]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = out.glob("*.nii")
    return nibabel.load(file).get_fdata().reshape(SIDE, SIDE)[:, ::-1].T  # NIfTI counts rows from the back to the front


READERS = {
    "pydicom, gdcm": by_pydicom("gdcm"),
    "SimpleITK": lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0],
    "dicomsdl": lambda path: dicomsdl.open(str(path)).pixelData(),
    "libjpeg-turbo": by_imagecodecs(imagecodecs.jpeg8_decode),
    "pydicom, pylibjpeg": by_pydicom("pylibjpeg"),
    "dcm2niix": by_dcm2niix,
    "ljpeg_decode": by_imagecodecs(imagecodecs.ljpeg_decode),
}
WRONG = {
    ("pydicom, pylibjpeg", 1): "1024 to 2112",
    ("pydicom, pylibjpeg", 2): "3071 to 3071",
    ("pydicom, pylibjpeg", 3): "3071 to 3071",
    ("dcm2niix", 1): "-1024 to 3071",
    ("dcm2niix", 2): "-1024 to 3071",
    ("dcm2niix", 3): "-1024 to 3071",
    ("ljpeg_decode", 1): "0 to 544",
    ("ljpeg_decode", 2): "512 to 784",
    ("ljpeg_decode", 3): "768 to 904",
}

stored = disc()
hu = stored + INTERCEPT
has_changed = False
for shift in range(4):
    assert np.array_equal(stored >> shift << shift, stored)  # so nothing is lost
    folder = Path(sys.argv[1]) / str(shift)
    folder.mkdir()
    write(folder / "slice.dcm", encode(stored, shift))
    for name, reader in READERS.items():
        found = np.asarray(reader(folder / "slice.dcm"), np.float64)
        seen = "right" if np.array_equal(found, hu) else f"{found.min():g} to {found.max():g}"
        print(f"exponent {shift}: {name}: {seen}")
        has_changed |= seen != WRONG.get((name, shift), "right")
sys.exit("changed" if has_changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder" 2>/dev/null
