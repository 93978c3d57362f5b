#!/usr/bin/env bash
# CMTK 3.3.1p2 (Debian 12), `dcm2image`: the pixels outside the scanner's round field become water (0 HU) if an unsigned
# CT slice states its padding as 0. Each pixel that equals Pixel Padding Value keeps its stored number, while all others
# are turned into HU. `dcm2image` also exchanges the two numbers of Pixel Spacing. The exit code is 0, and nothing is
# said.
#
# Pixel Padding Value (0028,0120) is a stored value, and marks pixels that are no part of the picture (PS3.3
# C.7.5.1.1.2). The NIfTI volume has no mark for them, so that 0 stands among HU as water, and 24 as soft tissue.
# SimpleITK 2.5.7 and pydicom 3.0.2 rescale them like the others, and they are air or less. Signed slices, and those
# that do not state their padding, come out as in SimpleITK. The first number of Pixel Spacing is the distance between
# rows (PS3.3 10.7.1.3). Only slices whose pixels are not square are hit by the exchange. `dcm2image --help-all` names
# neither. Seen: HU of four columns, of which the first is padding where it is stated, and the distances of columns and
# rows in mm
#   from                                        SimpleITK                      CMTK
#   unsigned, intercept -1024, none stated:     -1024 -600 -100 40 0.75 0.75   the same
#   unsigned, intercept -1024, padding 0:       -1024 -600 -100 40 0.75 0.75   0 -600 -100 40 0.75 0.75
#   unsigned, intercept -1024, padding 24:      -1000 -600 -100 40 0.75 0.75   24 -600 -100 40 0.75 0.75
#   signed, intercept -1024, padding -2000:     -3024 -600 -100 40 0.75 0.75   the same
#   signed, intercept 0, padding -2000:         -2000 -600 -100 40 0.75 0.75   the same
#   columns 0.75 mm apart, rows 1.5 mm:         -1024 -600 -100 40 0.75 1.5    -1024 -600 -100 40 1.5 0.75
#
# What follows for whoever reads volumes of CMTK: look at a corner of a slice, which must be air or less. A mask of the
# body by a threshold takes the whole corner for tissue.
#
# This needs Debian 12, with the packages that cmtk depends on besides the two below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get --quiet=2 download cmtk=3.3.1p2+dfsg-2+b1 libdcmtk17=3.6.7-9~deb12u4 \
    libfftw3-double3=3.3.10-1 2>/dev/null)
for package in "$folder"/*.deb; do
    dpkg --extract "$package" "$folder/root"
done
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pydicom==3.0.2 SimpleITK==2.5.7 nibabel==5.4.2 \
    numpy==2.4.6

cat >"$folder/convert.py" <<'PYTHON'
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

folder = Path(sys.argv[1])
root = folder / "root/usr"
environment = {
    **os.environ,
    "LD_LIBRARY_PATH": f"{root}/lib/cmtk:{root}/lib/x86_64-linux-gnu",
    "DCMDICTPATH": f"{root}/share/libdcmtk17/dicom.dic",
}


def write(series, signed, intercept, padding, values, spacing):
    """Write four slices, each with the HU in four columns."""
    series.mkdir()
    study, uid, frame = generate_uid(), generate_uid(), generate_uid()
    for number in range(4):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, uid, frame
        image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Test^Test", "1", "", "O"
        image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = "20260101"
        image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = "120000"
        image.StudyID, image.AccessionNumber = "1", "1"
        image.ReferringPhysicianName, image.Manufacturer, image.KVP = "", "Test", 120
        image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = 1, 1, number + 1
        image.PositionReferenceIndicator, image.PatientPosition = "", "HFS"
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = spacing, 2
        image.Rows, image.Columns = 6, 4
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, int(signed)
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, intercept, "HU"
        if padding is not None:
            image.add_new("PixelPaddingValue", "SS" if signed else "US", padding)
        stored = np.array(values) - intercept
        image.PixelData = np.tile(stored, (6, 1)).astype("<i2" if signed else "<u2").tobytes()
        image.save_as(series / f"{number}.dcm", enforce_file_format=True)
    done = pydicom.dcmread(series / "0.dcm")
    assert apply_rescale(done.pixel_array, done)[0].tolist() == values


def seen(path):
    """The HU from the patient's right to left, and the distances of columns and rows."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    assert image.shape[:3] == (4, 6, 4)
    values = image.get_fdata().reshape(4, 6, 4)
    assert (values == values[:, :1, :1]).all()
    return values[::-1, 0, 0].tolist(), [round(float(size), 4) for size in image.header.get_zooms()[:2]]


SQUARE, OTHER = [0.75, 0.75], [1.5, 0.75]
REST = [-600, -100, 40]
cases = [
    # signed, intercept, padding, HU of the first column, pixel spacing, and the HU of the first column in CMTK
    ("unsigned, none stated", False, -1024, None, -1024, SQUARE, -1024),
    ("unsigned, padding 0", False, -1024, 0, -1024, SQUARE, 0),
    ("unsigned, padding 24", False, -1024, 24, -1000, SQUARE, 24),
    ("signed, intercept -1024, padding -2000", True, -1024, -2000, -3024, SQUARE, -3024),
    ("signed, intercept 0, padding -2000", True, 0, -2000, -2000, SQUARE, -2000),
    ("not square", False, -1024, None, -1024, OTHER, -1024),
]
for number, (name, signed, intercept, padding, first, spacing, wanted) in enumerate(cases):
    series = folder / f"series{number}"
    write(series, signed, intercept, padding, [first, *REST], spacing)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    SimpleITK.WriteImage(reader.Execute(), folder / f"itk{number}.nii")
    right = seen(folder / f"itk{number}.nii")
    assert right == ([first, *REST], spacing[::-1]), right
    done = subprocess.run(
        [root / "lib/cmtk/bin/dcm2image", "--no-progress", "-O", folder / f"cmtk{number}.nii", series],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    said = (done.stdout + done.stderr).lower()
    assert "warn" not in said and "error" not in said, said
    (made,) = folder.glob(f"cmtk{number}.nii*")
    found = seen(made)
    print(f"{name}: SimpleITK {right}, CMTK {found}")
    if found != ([wanted, *REST], spacing):
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/convert.py" "$folder"
