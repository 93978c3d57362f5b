#!/usr/bin/env bash
# VTK 9.7.2, `vtkDICOMImageReader` (also pyvista 0.49.1, `DICOMReader`): signed CT pixels are read as unsigned if the
# rescale slope or intercept has a fraction. -1000 HU becomes 31768 with a slope of 0.5. Pixels of 8 bits are rescaled
# in 8 bits, so HU wrap around at 256. No error is reported, and `GetPixelRepresentation`, `GetRescaleSlope` and
# `GetRescaleOffset` are as in the file.
#
# Slope and intercept are decimal strings (DS), and PixelRepresentation does not depend on them (PS3.3 C.7.6.3.1,
# C.11.1.1). With whole numbers VTK computes in int16, and is right. With a fraction it computes in float32, from words
# that it takes for unsigned: a negative stored value is too high by 65536 times the slope. Values of 0 and more are
# right. So soft tissue and bone look as usual, and only fat, lung and air are wrong. The documentation names other
# limits (compressed files, files of several frames, the distance between slices), but not this. pydicom 3.0.2 and
# SimpleITK 2.5.7 are right in all cases. Seen, for -1000, -600, 40 and 1000 HU, which are stored without a loss:
#   signed 16 bits, slope 1 or 2, intercept 0:         -1000 -600 40 1000
#   signed 16 bits, slope 0.5, intercept 0 or -24:     31768 32168 40 1000
#   signed 16 bits, slope 1.25, intercept 0:           80920 81320 40 1000
#   unsigned 16 bits, slope 1 or 0.5, intercept -1024: -1000 -600 40 1000
#   unsigned 8 bits, slope 8, intercept -1000:         24 168 40 232
#
# What follows for whoever reads CT with VTK: read the pixels with another library, or check that air is near -1000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install vtk==9.7.2 pyvista==0.49.1 SimpleITK==2.5.7 \
    pydicom==3.0.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import pyvista
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_rescale
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOImage import vtkDICOMImageReader

HU = np.array([-1000, -600, 40, 1000])  # air, lung, tissue, bone
ROWS = 4


def write(path, kind, slope, intercept):
    """Write a CT slice whose rows are HU by this rescale."""
    exact = (HU - float(intercept)) / float(slope)
    stored = np.tile(exact.astype(kind), (ROWS, 1))
    assert np.array_equal(stored[0], exact)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.SeriesNumber = "", "", 1
    data.Modality, data.InstanceNumber, data.ImageType = "CT", 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.AcquisitionNumber = "none", 120, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [1, 1], 1, ROWS, HU.size
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = stored.itemsize * 8
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = slope, intercept, "HU"
    data.PixelData = stored.tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)


def by_vtk(path):
    reader = vtkDICOMImageReader()
    reader.SetFileName(str(path))
    reader.Update()
    assert reader.GetErrorCode() == 0
    return vtk_to_numpy(reader.GetOutput().GetPointData().GetScalars())


def by_pyvista(path):
    return pyvista.DICOMReader(str(path)).read().active_scalars


def by_pydicom(path):
    data = dcmread(path)
    return apply_rescale(data.pixel_array, data)


def by_simpleitk(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


WRONG = [31768.0, 32168.0, 40.0, 1000.0]
CASES = {
    "signed 16 bits, slope 1, intercept 0": (np.int16, "1", "0", HU),
    "signed 16 bits, slope 2, intercept 0": (np.int16, "2", "0", HU),
    "signed 16 bits, slope 0.5, intercept 0": (np.int16, "0.5", "0", WRONG),
    "signed 16 bits, slope 0.5, intercept -24": (np.int16, "0.5", "-24", WRONG),
    "signed 16 bits, slope 1.25, intercept 0": (np.int16, "1.25", "0", [80920.0, 81320.0, 40.0, 1000.0]),
    "unsigned 16 bits, slope 1, intercept -1024": (np.uint16, "1", "-1024", HU),
    "unsigned 16 bits, slope 0.5, intercept -1024": (np.uint16, "0.5", "-1024", HU),
    "unsigned 8 bits, slope 8, intercept -1000": (np.uint8, "8", "-1000", [24.0, 168.0, 40.0, 232.0]),
}
has_changed = False
for number, (name, (kind, slope, intercept, expected)) in enumerate(CASES.items()):
    path = Path(sys.argv[1]) / f"{number}.dcm"
    write(path, kind, slope, intercept)
    for reader in (by_pydicom, by_simpleitk):
        assert np.array_equal(reader(path).reshape(-1, HU.size)[0], HU), reader
    seen = by_vtk(path)[: HU.size]
    assert np.array_equal(seen, by_pyvista(path)[: HU.size])
    print(f"{name}: {' '.join(f'{value:g}' for value in seen)}")
    has_changed |= not np.array_equal(seen, expected)
sys.exit("changed" if has_changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
