#!/usr/bin/env bash
# dcm2niix 1.0.20260724: if a CT of manufacturer Philips also states a Real World Value Mapping, the NIfTI volume is
# scaled by that mapping's slope and by the rescale's intercept. The values are neither HU nor the mapped quantity. No
# warning.
#
# Real World Value Mapping Sequence (0040,9096) may be part of each image (General Image Module, PS3.3 C.7.6.1). It maps
# stored values on its own, without the rescale (PS3.3 C.7.6.16.2.11), here to a density in g/cm3: 0.001 per stored
# value, intercept 0. RescaleSlope 1 and RescaleIntercept -1024 give HU. Where dcm2niix sees Philips, it takes 0.001
# from one and -1024 from the other. Its documentation (Philips/README.md, "Image Scaling") says that it chooses the
# real world values for Philips, but an intercept of 0.1 in the mapping changes nothing. For other manufacturers it
# gives HU. Twelve bits then lie between -1024 and -1019.9, which a check of the range of HU lets through. SimpleITK
# 2.5.7 gives HU, and highdicom 0.28.2 gives the density, which is its documented default. Seen, for stored values of
# 24, 424 and 1064:
#   dcm2niix, SIEMENS, GE MEDICAL SYSTEMS, TOSHIBA: -1000, -600, 40
#   dcm2niix, Philips, Philips Medical Systems:     -1023.976, -1023.576, -1022.936
#   SimpleITK, any manufacturer:                    -1000, -600, 40
#   highdicom, any manufacturer:                    0.024, 0.424, 1.064
#
# What follows for whoever reads converted CT: check that a chest holds air near -1000 and tissue near 0, not the range
# alone. Whoever converts CT of Philips: remove the mapping first, or compare a slice with the rescale in the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install dcm2niix==1.0.20260724 SimpleITK==2.5.7 \
    highdicom==0.28.2 pydicom==3.0.2 nibabel==5.4.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STORED = (24, 424, 1064)
SIDE = 3
STUDY, SERIES, FRAME = generate_uid(), generate_uid(), generate_uid()
HU = [value - 1024 for value in STORED]


def density(intercept):
    """Return a mapping from stored values to g/cm3."""
    unit = Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "g/cm3", "UCUM", "g/cm3"
    mapping = Dataset()
    mapping.LUTExplanation, mapping.LUTLabel = "density", "DENSITY"
    mapping.add_new(0x00409216, "US", 0)  # first and last value mapped
    mapping.add_new(0x00409211, "US", 4095)
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.001, intercept
    mapping.MeasurementUnitsCodeSequence = [unit]
    return mapping


def write(path, number, manufacturer, intercept):
    """Write a slice of which each row has one value."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = STUDY, SERIES, FRAME
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.SeriesNumber = "", "", 1
    data.Modality, data.InstanceNumber, data.ImageType = "CT", number, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.AcquisitionNumber = manufacturer, 120, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [1, 1], 1, SIDE, SIDE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, -1024, "HU"
    data.RealWorldValueMappingSequence = [density(intercept)]
    data.PixelData = np.repeat(np.uint16(STORED), SIDE).tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(path, enforce_file_format=True)


def by_dcm2niix(series):
    out = series.parent / "nifti"
    out.mkdir()
    command = ["dcm2niix", "-b", "n", "-f", "out", "-o", str(out), str(series)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = out.glob("*.nii")
    return nibabel.load(file).get_fdata()[0, ::-1, 0]  # NIfTI counts rows from the back to the front


def by_simpleitk(series):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(series / "1.dcm")))[0, :, 0]


def by_highdicom(series):
    return highdicom.imread(series / "1.dcm").get_frame(1)[:, 0]


has_changed = False
for manufacturer, intercept, expected in (
    ("SIEMENS", 0.0, HU),
    ("GE MEDICAL SYSTEMS", 0.0, HU),
    ("TOSHIBA", 0.0, HU),
    ("Philips", 0.0, [0.001 * value - 1024 for value in STORED]),
    ("Philips Medical Systems", 0.0, [0.001 * value - 1024 for value in STORED]),
    ("Philips", 0.1, [0.001 * value - 1024 for value in STORED]),
):
    series = Path(sys.argv[1]) / f"{manufacturer}{intercept}" / "series"
    series.mkdir(parents=True)
    for number in (1, 2, 3):
        write(series / f"{number}.dcm", number, manufacturer, intercept)
    print(f"{manufacturer}, intercept of the mapping {intercept}")
    densities = [0.001 * value + intercept for value in STORED]
    for reader, stated in ((by_dcm2niix, expected), (by_simpleitk, HU), (by_highdicom, densities)):
        seen = reader(series)
        print(f"  {reader.__name__}: {', '.join(f'{value:.7g}' for value in seen)}")
        has_changed |= not np.allclose(seen, stated, rtol=0, atol=1e-3 * 0.1)
sys.exit("changed" if has_changed else 0)
PYTHON

PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/read.py" "$folder"
