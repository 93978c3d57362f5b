#!/usr/bin/env bash
# A CT series taken with a tilted gantry is put in the wrong place by two of four readers, without an error or a warning.
#
# With a tilt, the table moves along the patient while the slices lean: the step from slice to slice is not along the
# normal of the slices, and the volume is sheared. SimpleITK 2.5.7 knows no shear: it keeps the length of the step, 2 mm,
# and turns it to the normal. dicom-numpy 0.6.5 returns a whole 4 x 4 matrix, which could hold the shear, but it puts the
# step along the normal too, and shortens it. dicom2nifti 2.6.2 and highdicom 0.28.2 refuse the series. ITK's warning of
# uneven spacing does not fire, since all steps are equal. Seen, for the first pixel of slice 41 at a tilt of 0.3 rad
# (17 degrees), whose place in the file is (0, 0, 80) mm:
#   SimpleITK   (0, -23.64, 76.43)
#   dicom-numpy (0, -22.59, 73.01)
#   dicom2nifti refuses: NON_CUBICAL_IMAGE/GANTRY_TILT
#   highdicom   refuses: Series is not a regularly-spaced volume.
#
# What follows for whoever builds volumes: compare the step with the normal, and say that the series is tilted.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install SimpleITK==2.5.7 dicom-numpy==0.6.5 \
    dicom2nifti==2.6.2 highdicom==0.28.2 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import math
import sys
from pathlib import Path

import dicom2nifti
import dicom_numpy
import highdicom
import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY, SERIES, FRAME = generate_uid(), generate_uid(), generate_uid()
TILT, STEP, SLICES = 0.3, 2, 41


def write(place, number):
    """Write one slice that leans by TILT; the table has moved by STEP mm for each slice before it."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.SeriesNumber = "", "", 1
    data.Modality, data.InstanceNumber, data.ImageType = "CT", number + 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.AcquisitionNumber = "none", 120, 1
    data.ImagePositionPatient = [0, 0, STEP * number]
    data.ImageOrientationPatient = [1, 0, 0, 0, f"{math.cos(TILT):.8f}", f"{math.sin(TILT):.8f}"]
    data.PixelSpacing, data.SliceThickness = [1, 1], STEP
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.PixelData = np.full((8, 8), number, np.uint16).tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(place, enforce_file_format=True)
    return str(place)


def refusal(act):
    """Return the text of the error that a call raises, or "" if it raises none."""
    try:
        act()
    except Exception as error:
        return str(error)
    return ""


series = Path(sys.argv[1]) / "series"
series.mkdir()
files = [write(series / f"{number:02d}.dcm", number) for number in range(SLICES)]
reader = SimpleITK.ImageSeriesReader()
reader.SetFileNames(files)
volume = reader.Execute()
last = (0, 0, SLICES - 1)
_, matrix = dicom_numpy.combine_slices([dcmread(file) for file in files])
found = {
    "SimpleITK": [round(value, 2) for value in volume.TransformIndexToPhysicalPoint(last)],
    "dicom-numpy": [round(float(value), 2) for value in (matrix @ [*last, 1])[:3]],
    "dicom2nifti": refusal(lambda: dicom2nifti.dicom_series_to_nifti(str(series), f"{sys.argv[1]}/volume.nii")),
    "highdicom": refusal(lambda: highdicom.get_volume_from_series([dcmread(file) for file in files])),
}
for name, seen in found.items():
    print(f"{name}: {seen}; the file says (0, 0, {STEP * (SLICES - 1)})")
if found != {
    "SimpleITK": [0.0, -23.64, 76.43],
    "dicom-numpy": [0.0, -22.59, 73.01],
    "dicom2nifti": "NON_CUBICAL_IMAGE/GANTRY_TILT",
    "highdicom": "Series is not a regularly-spaced volume.",
}:
    sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder" 2>/dev/null
