#!/usr/bin/env bash
# A CT slice with its own lung table (VOI LUT Sequence): pydicom 3.0.2 and highdicom 0.28.2 draw it all black if the
# file is in Implicit VR, and nothing is said. In Explicit VR, pydicom draws the same slice as its maker meant.
#
# The second number of LUT Descriptor (0028,3002) is the first value that the table maps, here -1350 HU. In Implicit VR
# the file does not say whether it is signed. PS3.3 C.11.2.1.1 does: it is signed (SS) if the rescale may give negative
# values, which a note there says is always so for CT in Hounsfield units. pydicom takes it from Pixel Representation,
# as it does for values that are compared with stored pixels. For CT with unsigned pixels and an intercept of -1024 it
# then reads 64186 for -1350, all HU lie below that, and each pixel gets the table's first entry. Implicit VR is DICOM's
# default transfer syntax, and most CT is stored unsigned. A slice of one grey is the only trace. The input passes
# dciodvfy, except for attributes that do not concern pixels. dcmtk 3.6.7 (dcm2pnm) draws both files alike (not checked
# here). Seen, for air, lung, water and bone at -1024, -600, 0 and 976 HU, where a table of 1501 entries rises from 0 at
# -1350 to 65535 at 150:
#   Explicit VR: first value -1350, pydicom 14242 32767 58981 65535; highdicom raises OverflowError
#   Implicit VR: first value 64186, pydicom 0 0 0 0;                 highdicom 0 0 0 0
# With signed pixels, pydicom is right in both.
#
# What follows for whoever draws CT by the table in the file: read the descriptor's second number as signed for CT, or
# window HU with numbers of one's own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pydicom==3.0.2 highdicom==0.28.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import sys

import highdicom
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale, apply_voi_lut
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

HU = np.array([[-1024, -600], [0, 976]])
FIRST, ENTRIES = -1350, 1501


def write(path, syntax, is_signed):
    """Write a CT slice of four pixels with a table for lungs."""
    table = Dataset()
    table.add_new(0x00283002, "SS", [ENTRIES, FIRST, 16])
    table.LUTExplanation = "lung"
    table.add_new(0x00283006, "OW", np.linspace(0, 65535, ENTRIES).astype(np.uint16).tobytes())
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.SeriesNumber = "", "", 1
    data.Modality, data.InstanceNumber, data.ImageType = "CT", 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.AcquisitionNumber = "none", 120, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 1
    data.Rows, data.Columns = HU.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, int(is_signed)
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0 if is_signed else -1024, "HU"
    data.VOILUTSequence = [table]
    data.PixelData = (HU - int(data.RescaleIntercept)).astype(np.int16).tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)


def by_pydicom(path):
    data = dcmread(path)
    hu = apply_rescale(data.pixel_array, data).astype(np.int32)
    assert np.array_equal(hu, HU)
    return apply_voi_lut(hu, data).ravel().tolist()


def by_highdicom(path):
    try:
        grey = highdicom.imread(path).get_frame(1, apply_voi_transform=True, apply_real_world_transform=False)
    except OverflowError as error:
        return type(error).__name__
    return grey.ravel().tolist()


RIGHT, BLACK = [14242, 32767, 58981, 65535], [0, 0, 0, 0]
has_changed = False
for syntax, is_signed, first, pydicom_expected, highdicom_expected in (
    (ExplicitVRLittleEndian, False, FIRST, RIGHT, "OverflowError"),
    (ImplicitVRLittleEndian, False, FIRST + 65536, BLACK, BLACK),
    (ExplicitVRLittleEndian, True, FIRST, RIGHT, None),
    (ImplicitVRLittleEndian, True, FIRST, RIGHT, None),
):
    path = f"{sys.argv[1]}/slice.dcm"
    write(path, syntax, is_signed)
    seen_first = dcmread(path).VOILUTSequence[0].LUTDescriptor[1]
    greys = by_pydicom(path)
    has_changed |= (seen_first, greys) != (first, pydicom_expected)
    print(f"{syntax.name}, {'signed' if is_signed else 'unsigned'}: first value {seen_first}, pydicom {greys}")
    if highdicom_expected is not None:
        greys = by_highdicom(path)
        has_changed |= greys != highdicom_expected
        print(f"  highdicom {greys}")
sys.exit("changed" if has_changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
