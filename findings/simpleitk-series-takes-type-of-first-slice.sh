#!/usr/bin/env bash
# SimpleITK 2.5.7: ImageSeriesReader gives every slice of a DICOM series the pixel type that suits the first one. A later
# slice with another RescaleIntercept or RescaleSlope wraps around or loses its fraction, and nothing is said.
#
# The type follows from the first file's rescale values: unsigned 12 bits with intercept 0 become uint16. A slice of the
# same series with intercept -1024 holds negative HU, which uint16 does not, so -924 HU reads as 64612. Read alone, each
# file is right. Series with more than one intercept are legal (the values stand in each file) and occur. In the other
# order the type is int16 and both are right, so the outcome depends on which slice comes first. Seen:
#   intercepts 0, -1024: expected [100, -924], read [100, 64612] as uint16
#   intercepts -1024, 0: expected [-924, 100], read [-924, 100] as int16
#   slopes 1, 0.5: expected [-924, -949.75], read [-924, -949] as int16
#
# What follows for whoever reads CT series: apply the rescale slice by slice, in a type that holds all of HU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install SimpleITK==2.5.7 pydicom==3.0.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import sys

import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STUDY, SERIES, FRAME = generate_uid(), generate_uid(), generate_uid()


def write(place, number, value, slope, intercept):
    """Write one CT slice of a constant stored value."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME
    data.Modality, data.InstanceNumber = "CT", number
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 2
    data.Rows = data.Columns = 4
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = slope, intercept, "HU"
    data.PixelData = np.full((4, 4), value, np.uint16).tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(place, enforce_file_format=True)
    return place


cases = (
    ("intercepts 0, -1024", [(100, 1, 0), (100, 1, -1024)], [100, 64612], "uint16"),
    ("intercepts -1024, 0", [(100, 1, -1024), (100, 1, 0)], [-924, 100], "int16"),
    ("slopes 1, 0.5", [(100, 1, -1024), (101, 0.5, -1000.25)], [-924, -949], "int16"),
)
for name, slices, as_read, kind in cases:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([write(f"{sys.argv[1]}/{n}.dcm", n, *values) for n, values in enumerate(slices)])
    volume = SimpleITK.GetArrayFromImage(reader.Execute())
    expected = [value * slope + intercept for value, slope, intercept in slices]
    found = volume[:, 0, 0].tolist()
    print(f"{name}: expected {expected}, read {found} as {volume.dtype}")
    if (found, str(volume.dtype)) != (as_read, kind):
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
