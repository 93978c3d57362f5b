#!/usr/bin/env bash
# An Enhanced CT whose frames have a rescale each: pydicom 3.0.2 leaves it out, SimpleITK 2.5.7 applies the first frame's
# to all of them.
#
# Enhanced CT states the rescale in the Pixel Value Transformation of each frame, or of all frames (PS3.3 C.7.6.16.2.9).
# Two frames of the same -600 HU are stored as 424 with intercept -1024, and as 924 with intercept -1524. pydicom's
# `apply_rescale` looks at the top of the data set only, finds nothing there and returns the stored numbers. SimpleITK
# (ITK by GDCM) takes the rescale of the first frame for the whole volume: the second frame is 500 HU too high. Neither
# warns. Seen:
#   stored: 424 924
#   pydicom: 424 924
#   SimpleITK: -600 -100
#   by each frame's own rescale: -600 -600
#
# What follows for whoever reads Enhanced CT: take slope and intercept of each frame from its own functional groups, then
# from the shared ones, then from the top.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import sys
from itertools import starmap

import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

STORED, INTERCEPTS = (424, 924), (-1024, -1524)


def item(**values: object) -> list[Dataset]:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return [dataset]


def frame(number: int, intercept: int) -> Dataset:
    return item(
        FrameContentSequence=item(StackID="1", InStackPositionNumber=number, DimensionIndexValues=[1, number]),
        PlanePositionSequence=item(ImagePositionPatient=[0, 0, float(number)]),
        PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=intercept, RescaleType="HU"),
    )[0]


(dataset,) = item(
    SOPClassUID=EnhancedCTImageStorage,
    SOPInstanceUID=generate_uid(),
    StudyInstanceUID=generate_uid(),
    SeriesInstanceUID=generate_uid(),
    Modality="CT",
    ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
    SamplesPerPixel=1,
    PhotometricInterpretation="MONOCHROME2",
    Rows=4,
    Columns=4,
    BitsAllocated=16,
    BitsStored=16,
    HighBit=15,
    PixelRepresentation=0,
    NumberOfFrames=2,
    SharedFunctionalGroupsSequence=item(
        PixelMeasuresSequence=item(PixelSpacing=[1, 1], SliceThickness=1),
        PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    ),
    PerFrameFunctionalGroupsSequence=list(starmap(frame, enumerate(INTERCEPTS, 1))),
    PixelData=np.repeat(np.uint16(STORED), 16).tobytes(),
)
dataset["PixelData"].VR = "OW"
dataset.file_meta = FileMetaDataset()
dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
dataset.save_as(sys.argv[1], enforce_file_format=True)

read = pydicom.dcmread(sys.argv[1])
by_pydicom = apply_rescale(read.pixel_array, read)[:, 0, 0].tolist()
by_simpleitk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(sys.argv[1]))[:, 0, 0].tolist()
own = [number + intercept for number, intercept in zip(STORED, INTERCEPTS, strict=True)]
for name, values in (
    ("stored", STORED), ("pydicom", by_pydicom), ("SimpleITK", by_simpleitk), ("by each frame's own rescale", own)
):
    print(f"{name}: {' '.join(f'{value:g}' for value in values)}")
if (by_pydicom, by_simpleitk) != ([424, 924], [-600, -100]):
    sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder/enhanced.dcm"
