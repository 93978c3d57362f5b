#!/usr/bin/env bash
# MRtrix3 3.0.3 (Debian 12) reads signed CT as unsigned: -1000 HU becomes 64536. It also exchanges the two numbers of
# Pixel Spacing. The exit code is 0, and nothing is said.
#
# Pixel Representation (0028,0103) 1 says that stored values are in two's complement (PS3.3 C.7.6.3.1). MRtrix3 shows
# the number in `dcminfo -all`, but takes all pixels of 16 bits for unsigned. Soft tissue and bone look as usual, and
# air, lung and fat are brighter than metal. With a slope, the error is 65536 times the slope. Unsigned CT with an
# intercept of -1024 is right, so a data set of several scanners is right in part. The first number of Pixel Spacing
# is the distance between rows (PS3.3 10.7.1.3). MRtrix3 takes it for the distance between columns. Only slices whose
# pixels are not square are hit, such as some coronal and sagittal reformats. The page on DICOM in its documentation
# names other limits, but not these. Its source on GitHub (mapper.cpp at 00efd8c, of 2024) still sets UInt16. SimpleITK 2.5.7 and nibabel 5.4.2 agree on each NIfTI volume. Seen: HU, and the distances of
# columns and rows in mm
#   from                                             SimpleITK                       MRtrix3
#   unsigned, intercept -1024, pixels of 0.75 mm:    -1000 -600 -100 40 0.75 0.75    the same
#   signed, intercept 0, pixels of 0.75 mm:          -1000 -600 -100 40 0.75 0.75    64536 64936 65436 40 0.75 0.75
#   signed, slope 0.5, intercept -24:                -1000 -600 -100 40 0.75 0.75    31768 32168 32668 40 0.75 0.75
#   unsigned, columns 0.75 mm apart, rows 1.5 mm:    -1000 -600 -100 40 0.75 1.5     -1000 -600 -100 40 1.5 0.75
#
# What follows for whoever reads CT with MRtrix3: convert to NIfTI with another tool first, and check that air is near
# -1000. `mrstats` reads SimpleITK's NIfTI of signed values correctly (checked here).
#
# This needs Debian 12, with the packages that mrtrix3 depends on for commands without a window.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get --quiet=2 download mrtrix3=3.0.3-3+b1 libfftw3-double3=3.3.10-1 2>/dev/null)
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
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

folder = Path(sys.argv[1])
root = folder / "root"
paths = [root / "usr/lib/mrtrix3/lib", root / "usr/lib/x86_64-linux-gnu"]
environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, paths))}
HU = [-1000, -600, -100, 40]


def run(command, *arguments):
    done = subprocess.run(
        [root / "usr/bin" / command, *arguments], env=environment, check=True, capture_output=True, text=True
    )
    assert "warn" not in done.stderr.lower() and "error" not in done.stderr.lower(), done.stderr
    return done.stdout


def write(series, signed, slope, intercept, spacing):
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
        image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20260101", "120000", "1", "1"
        image.SeriesDate = image.AcquisitionDate = image.ContentDate = image.StudyDate
        image.SeriesTime = image.AcquisitionTime = image.ContentTime = image.StudyTime
        image.ReferringPhysicianName, image.Manufacturer, image.KVP = "", "Test", 120
        image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = 1, 1, number + 1
        image.PositionReferenceIndicator, image.PatientPosition = "", "HFS"
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 2 * number], [1, 0, 0, 0, 1, 0]
        image.PixelSpacing, image.SliceThickness = spacing, 2
        image.Rows, image.Columns = 6, 4
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, int(signed)
        image.RescaleSlope, image.RescaleIntercept, image.RescaleType = slope, intercept, "HU"
        stored = [round((value - intercept) / slope) for value in HU]
        # Each row is the same.
        image.PixelData = np.tile(stored, (6, 1)).astype("<i2" if signed else "<u2").tobytes()
        image.save_as(series / f"{number}.dcm", enforce_file_format=True)


def seen(path):
    """The HU from column to column, and the size of the pixels, by two readers."""
    image = SimpleITK.ReadImage(path)
    values = SimpleITK.GetArrayFromImage(image)[0, 0].tolist()
    other = nibabel.load(path)
    assert np.asarray(other.dataobj)[:, 0, 0].tolist() == values
    size = [round(number, 4) for number in image.GetSpacing()[:2]]
    assert np.allclose(other.header.get_zooms()[:2], size)
    if image.GetDirection()[0] < 0:  # The first axis runs to the right.
        values.reverse()
    return values, size


cases = {
    "unsigned": ((False, 1, -1024, [0.75, 0.75]), HU, [0.75, 0.75]),
    "signed": ((True, 1, 0, [0.75, 0.75]), [64536, 64936, 65436, 40], [0.75, 0.75]),
    "signed, slope 0.5": ((True, 0.5, -24, [0.75, 0.75]), [31768, 32168, 32668, 40], [0.75, 0.75]),
    "unsigned, not square": ((False, 1, -1024, [1.5, 0.75]), HU, [1.5, 0.75]),
}
for number, (name, (how, *wanted)) in enumerate(cases.items()):
    series = folder / f"series{number}"
    write(series, *how)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    SimpleITK.WriteImage(reader.Execute(), folder / f"itk{number}.nii")
    right = seen(folder / f"itk{number}.nii")
    assert right == (HU, how[3][::-1]), right
    run("mrconvert", series, folder / f"mrtrix{number}.nii")
    values, size = seen(folder / f"mrtrix{number}.nii")
    print(f"{name}: SimpleITK {right[0]} {right[1]}, MRtrix3 {values} {size}")
    if [values, size] != wanted:
        sys.exit("changed")
    lowest = float(run("mrstats", "-output", "min", series))
    assert lowest == min(wanted[0])
lowest = float(run("mrstats", "-output", "min", folder / "itk1.nii"))
assert lowest == -1000
print(f"lowest value by mrstats of the signed volume of SimpleITK: {lowest:g}")
PYTHON

"$folder/venv/bin/python" "$folder/convert.py" "$folder"
