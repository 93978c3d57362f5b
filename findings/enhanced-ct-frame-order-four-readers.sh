#!/usr/bin/env bash
# An Enhanced CT whose frames are not stored from one end to the other: three of four readers put frames in places where
# they were not taken. dicom2nifti 2.6.2 turns a volume upside down if its frames run from head to feet. SimpleITK 2.5.7
# stacks frames as they are stored, in three cases with a step of 1 mm that the file does not state. dcm2niix
# 1.0.20260724 mixes two stacks. highdicom 0.28.2 is right or refuses. Only dcm2niix warns, and only of the two stacks.
#
# The standard does not order the frames of a file. Each frame states its place (Image Position (Patient), PS3.3
# C.7.6.16.2.3), its stack and its number in it (Stack ID, In-Stack Position Number, C.7.6.16.2.2). dicom2nifti sorts
# pixels by In-Stack Position Number but takes the place of the first stored frame for the corner. SimpleITK (GDCM)
# looks at neither number. Below, the value of a pixel is its true place in mm, and slices are 2 mm thick. "4 at 1" is
# the frame of 4 mm, put at 1 mm. A file like this with all that Enhanced CT requires passes dciodvfy without an error,
# and is read the same. Seen:
#   6 4 2 0 (head to feet):
#     dicom2nifti 6 at 0, 4 at 2, 2 at 4, 0 at 6; the others are right
#   0 4 2 6 (odd, then even):
#     SimpleITK 0 at 0, 4 at 1, 2 at 2, 6 at 3; dicom2nifti refuses; the others are right
#   0 2 4 10 (a gap):
#     SimpleITK 0 at 0, 2 at 1, 4 at 2, 10 at 3; dcm2niix 0 at 0, 2 at 3.33, 4 at 6.67, 10 at 10; the others refuse
#   0 0 2 2 4 4 (two times):
#     SimpleITK 0 at 0, 0 at 2, 2 at 4, 2 at 6, 4 at 8, 4 at 10; dcm2niix is right; the others refuse
#   0 2 4 and 50 52 54 (two stacks):
#     SimpleITK 0 at 0, 2 at 1, 4 at 2, 50 at 3, 52 at 4, 54 at 5
#     dcm2niix 54 at 50, 52 at 60.8, 50 at 71.6, 4 at 82.4, 2 at 93.2, 0 at 104; the others refuse
#
# What follows for whoever reads Enhanced CT: take each frame's place from its own functional groups, sort by it, and
# check the matrix of a converted volume against the places of the first and the last frame.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pydicom==3.0.2 SimpleITK==2.5.7 \
    dcm2niix==1.0.20260724 dicom2nifti==2.6.2 highdicom==0.28.2 nibabel==5.4.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import dicom2nifti
import highdicom
import nibabel
import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

STACK, IN_STACK, TIME = 0x00209056, 0x00209057, 0x00209128
CONTENT = 0x00209111
REFUSED = "refused"


def item(**values):
    """Return a sequence of one item."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return [dataset]


def write(path, frames):
    """Write an Enhanced CT. A frame is (place in mm, stack, number in its stack, number of its time)."""
    organization = generate_uid()
    dimensions = [
        item(DimensionOrganizationUID=organization, DimensionIndexPointer=tag, FunctionalGroupPointer=CONTENT)[0]
        for tag in (STACK, IN_STACK, TIME)
    ]
    per_frame = [
        item(
            FrameContentSequence=item(
                StackID=str(stack),
                InStackPositionNumber=number,
                TemporalPositionIndex=time,
                DimensionIndexValues=[stack, number, time],
            ),
            PlanePositionSequence=item(ImagePositionPatient=[0.0, 0.0, float(place)]),
        )[0]
        for place, stack, number, time in frames
    ]
    (data,) = item(
        SOPClassUID=EnhancedCTImageStorage, SOPInstanceUID=generate_uid(), StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(), FrameOfReferenceUID=generate_uid(), PositionReferenceIndicator="",
        PatientName="", PatientID="1", PatientBirthDate="", PatientSex="", StudyID="", AccessionNumber="",
        StudyDate="", StudyTime="", ReferringPhysicianName="", SeriesNumber=1, InstanceNumber=1, Manufacturer="none",
        Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], PatientPosition="HFS",
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", Rows=8, Columns=8, NumberOfFrames=len(frames),
        BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=1,
        DimensionOrganizationSequence=item(DimensionOrganizationUID=organization), DimensionIndexSequence=dimensions,
        SharedFunctionalGroupsSequence=item(
            PixelMeasuresSequence=item(PixelSpacing=[1, 1], SliceThickness=2),
            PlaneOrientationSequence=item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
            PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=0, RescaleType="HU"),
        ),
        PerFrameFunctionalGroupsSequence=per_frame,
        PixelData=np.repeat(np.int16([place for place, *_ in frames]), 64).tobytes(),
    )
    data["PixelData"].VR = "OW"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def by_simpleitk(path):
    image = SimpleITK.ReadImage(path)
    values = SimpleITK.GetArrayFromImage(image)[:, 0, 0]
    return [(int(v), round(image.TransformIndexToPhysicalPoint((0, 0, k))[2], 2)) for k, v in enumerate(values)]


def of_nifti(path):
    image = nibabel.load(path)
    values = np.asarray(image.dataobj)
    slices = values.reshape(*values.shape[:3], -1)[0, 0]  # slice, time
    return [(int(v), round(float((image.affine @ [0, 0, k, 1])[2]), 2)) for k, row in enumerate(slices) for v in row]


def by_dcm2niix(path):
    out = Path(path).parent / "dcm2niix"
    out.mkdir()
    command = ["dcm2niix", "-b", "n", "-f", "out", "-o", str(out), str(Path(path).parent)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = out.glob("*.nii")
    return of_nifti(file)


def by_dicom2nifti(path):
    out = f"{path}.nii"
    dicom2nifti.convert_dicom.dicom_series_to_nifti(str(Path(path).parent), out)
    return of_nifti(out)


def by_highdicom(path):
    volume = highdicom.imread(path).get_volume(apply_real_world_transform=False)
    return [(int(v), round(float((volume.affine @ [k, 0, 0, 1])[2]), 2)) for k, v in enumerate(volume.array[:, 0, 0])]


def placed(reader, path):
    """Return where a reader puts each frame: pairs of its true place and the place that it got."""
    try:
        return reader(path)
    except (RuntimeError, dicom2nifti.exceptions.ConversionValidationError):
        return REFUSED


READERS = (by_dicom2nifti, by_simpleitk, by_dcm2niix, by_highdicom)
RIGHT = "right"
CASES = {
    "feet to head": ([(0, 1, 1, 1), (2, 1, 2, 1), (4, 1, 3, 1), (6, 1, 4, 1)], (RIGHT, RIGHT, RIGHT, RIGHT)),
    "head to feet": (
        [(6, 1, 4, 1), (4, 1, 3, 1), (2, 1, 2, 1), (0, 1, 1, 1)],
        ([(6, 0), (4, 2), (2, 4), (0, 6)], RIGHT, RIGHT, RIGHT),
    ),
    "odd, then even": (
        [(0, 1, 1, 1), (4, 1, 3, 1), (2, 1, 2, 1), (6, 1, 4, 1)],
        (REFUSED, [(0, 0), (4, 1), (2, 2), (6, 3)], RIGHT, RIGHT),
    ),
    "a gap": (
        [(0, 1, 1, 1), (2, 1, 2, 1), (4, 1, 3, 1), (10, 1, 4, 1)],
        (REFUSED, [(0, 0), (2, 1), (4, 2), (10, 3)], [(0, 0), (2, 3.33), (4, 6.67), (10, 10)], REFUSED),
    ),
    "two times": (
        [(0, 1, 1, 1), (0, 1, 1, 2), (2, 1, 2, 1), (2, 1, 2, 2), (4, 1, 3, 1), (4, 1, 3, 2)],
        (REFUSED, [(0, 0), (0, 2), (2, 4), (2, 6), (4, 8), (4, 10)], RIGHT, REFUSED),
    ),
    "two stacks": (
        [(0, 1, 1, 1), (2, 1, 2, 1), (4, 1, 3, 1), (50, 2, 1, 1), (52, 2, 2, 1), (54, 2, 3, 1)],
        (
            REFUSED,
            [(0, 0), (2, 1), (4, 2), (50, 3), (52, 4), (54, 5)],
            [(54, 50), (52, 60.8), (50, 71.6), (4, 82.4), (2, 93.2), (0, 104)],
            REFUSED,
        ),
    ),
}
has_changed = False
for number, (name, (frames, expected)) in enumerate(CASES.items()):
    folder = Path(sys.argv[1]) / f"case{number}"
    folder.mkdir()
    path = str(folder / "enhanced.dcm")
    write(path, frames)
    print(f"{name}: stored {' '.join(str(place) for place, *_ in frames)}")
    for reader, stated in zip(READERS, expected, strict=True):
        pairs = placed(reader, path)
        seen = RIGHT if pairs != REFUSED and all(true == got for true, got in pairs) else pairs
        print(f"  {reader.__name__}: {seen if isinstance(seen, str) else ', '.join(f'{t} at {g:g}' for t, g in seen)}")
        has_changed |= seen != stated
sys.exit("changed" if has_changed else 0)
PYTHON

PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/read.py" "$folder" 2>/dev/null
