#!/usr/bin/env bash
# CT with PhotometricInterpretation MONOCHROME1: SimpleITK 2.5.7 turns the stored values around before the rescale, so its
# Hounsfield units are wrong, and nothing is said. pydicom 3.0.2, dicomsdl 0.109.4 and dcm2niix 1.0.20260724 give the
# Hounsfield units that the file states. For MONOCHROME2 all four agree.
#
# The standard allows both for CT (PS3.3 C.8.2.1). MONOCHROME1 says how to show values, not what they mean: the rescale
# comes before it (PS3.3 C.11.1, PS3.4 N.2). The input is a valid slice of air, -1000 HU, above tissue, 40 HU. Seen for
# MONOCHROME1, air and tissue:
#   12 bits, unsigned: SimpleITK 3047 and 2007, the others -1000 and 40
#   16 bits, unsigned: SimpleITK 64487 and 63447, the others -1000 and 40
#   16 bits, signed:   SimpleITK 999 and -41, the others -1000 and 40
#
# What follows for whoever reads CT: rescale the stored values as they are, and turn greys around after the window only.
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
from pydicom.pixels import apply_rescale
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

HU = np.array([[-1000, -1000], [40, 40]], np.int16).repeat(8, 0).repeat(8, 1)  # air above, tissue below
INTERCEPT = -1024


def write(place, photometric, bits, signed):
    """Write one CT slice of these HU."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 1
    data.Rows, data.Columns = HU.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, photometric
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, bits, bits - 1, int(signed)
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0 if signed else INTERCEPT, "HU"
    data.PixelData = (HU if signed else HU - INTERCEPT).astype(np.int16).tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(place, enforce_file_format=True)


def of_dcm2niix(folder):
    program = Path(sys.executable).with_name("dcm2niix")
    subprocess.run([program, "-f", "out", "-o", folder, folder], stdout=subprocess.DEVNULL, check=True)
    pixels = nibabel.load(folder / "out.nii").get_fdata().squeeze()
    return pixels[0, -1], pixels[0, 0]  # the rows of a NIfTI file run from the bottom


def of_dicomsdl(place):
    data = dicomsdl.open(place)
    pixels = data.pixelData(storedvalue=True) * data.RescaleSlope + data.RescaleIntercept
    return pixels[0, 0], pixels[-1, 0]


OF_SIMPLEITK = {
    (12, False): "3047 and 2007",
    (16, False): "64487 and 63447",
    (16, True): "999 and -41",
}
RIGHT = "-1000 and 40"
for (bits, signed), of_simpleitk in OF_SIMPLEITK.items():
    for photometric in ("MONOCHROME2", "MONOCHROME1"):
        folder = Path(sys.argv[1]) / f"{bits} {signed} {photometric}"
        folder.mkdir()
        place = str(folder / "slice.dcm")
        write(place, photometric, bits, signed)
        data, of_itk = dcmread(place), SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(place))[0]
        rescaled = apply_rescale(data.pixel_array, data)
        found = {
            "pydicom": (rescaled[0, 0], rescaled[-1, 0]),
            "SimpleITK": (of_itk[0, 0], of_itk[-1, 0]),
            "dicomsdl": of_dicomsdl(place),
            "dcm2niix": of_dcm2niix(folder),
        }
        texts = {reader: "{:.0f} and {:.0f}".format(*map(float, values)) for reader, values in found.items()}
        kind = f"{bits} bits, {'signed' if signed else 'unsigned'}, {photometric}"
        print(f"{kind}:", ", ".join(f"{reader} {text}" for reader, text in texts.items()))
        expected = dict.fromkeys(found, RIGHT)
        if photometric == "MONOCHROME1":
            expected["SimpleITK"] = of_simpleitk
        if texts != expected:
            sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
