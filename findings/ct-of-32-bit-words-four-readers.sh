#!/usr/bin/env bash
# CT pixels in words of 32 bits: SimpleITK 2.5.7 (GDCM) reads a slice of zeros, without an error or a warning, if
# BitsStored is 16 or less. With 24 bits stored it keeps the lowest eight bits of a value: -1000 becomes -65512, and 1040
# becomes 16. It is right with all 32 bits stored. dicomsdl 0.109.4 reads the first half of the words as pixels of 16
# bits, two for each word. pydicom 3.0.2 and dcm2niix 1.0.20260724 are right in all these cases.
#
# The input is a valid CT Image of 16 x 16 signed pixels from -1000 to 1040, uncompressed, whose words repeat the sign.
# Real chest CT is stored like this: the slices that a scanner reformatted, with 15 of 32 bits stored. Seen, lowest to
# highest value:
#   12, 15, 16 bits stored: pydicom -1000 to 1040, SimpleITK 0 to 0, dicomsdl -1000 to 16, dcm2niix -1000 to 1040
#   24 bits stored: pydicom -1000 to 1040, SimpleITK -65536 to 65528, dicomsdl -1000 to 16, dcm2niix -1000 to 1040
#   32 bits stored: pydicom -1000 to 1040, SimpleITK -1000 to 1040, dicomsdl -1000 to 16, dcm2niix -1000 to 1040
#
# What follows for whoever reads CT: a slice of one value may be this fault, not an empty scan. Mask each word to
# BitsStored, take HighBit as the sign, and compare with a second reader.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install SimpleITK==2.5.7 pydicom==3.0.2 dicomsdl==0.109.4 \
    dcm2niix==1.0.20260724 nibabel==5.4.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import dicomsdl
import nibabel
import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

LOWEST, HIGHEST = -1000, 1040
STORED = np.linspace(LOWEST, HIGHEST, 256).astype(np.int32).reshape(16, 16)


def write(place, bits):
    """Write one CT slice of signed pixels with `bits` of 32 bits stored. The words repeat the sign, as int32 does."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 1
    data.Rows, data.Columns = STORED.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 32, bits, bits - 1, 1
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
    data.PixelData = STORED.tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(place, enforce_file_format=True)


def of_dcm2niix(folder):
    program = Path(sys.executable).with_name("dcm2niix")
    subprocess.run([program, "-f", "out", "-o", folder, folder], stdout=subprocess.DEVNULL, check=False)
    files = list(folder.glob("out*.nii"))
    return nibabel.load(files[0]).get_fdata() if files else None


def ends(pixels):
    return "nothing" if pixels is None else f"{int(np.min(pixels))} to {int(np.max(pixels))}"


RIGHT = f"{LOWEST} to {HIGHEST}"
OF_SIMPLEITK = {12: "0 to 0", 15: "0 to 0", 16: "0 to 0", 24: "-65536 to 65528", 32: RIGHT}
for bits, of_simpleitk in OF_SIMPLEITK.items():
    folder = Path(sys.argv[1]) / str(bits)
    folder.mkdir()
    place = str(folder / "slice.dcm")
    write(place, bits)
    found = {
        "pydicom": ends(dcmread(place).pixel_array),
        "SimpleITK": ends(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(place))),
        "dicomsdl": ends(dicomsdl.open(place).pixelData(storedvalue=True)),
        "dcm2niix": ends(of_dcm2niix(folder)),
    }
    print(f"{bits} bits stored:", ", ".join(f"{name} {text}" for name, text in found.items()))
    if found != {"pydicom": RIGHT, "SimpleITK": of_simpleitk, "dicomsdl": "-1000 to 16", "dcm2niix": RIGHT}:
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
