#!/usr/bin/env bash
# dcm2niix 1.0.20260724: of a CT series with two slices at each place, numbered place by place, the NIfTI volumes hold
# slices in places where they were not taken if the manufacturer is Siemens or Toshiba, and are right for GE and Philips.
#
# Two slices at each place are legal: two moments, or two reconstructions, under one SeriesInstanceUID. Here InstanceNumber
# counts place by place: 0, 0, 2, 2, 4, 4 mm. For some manufacturers dcm2niix takes the first half by number for the first
# volume. AcquisitionNumber and TemporalPositionIdentifier, which tell the moments apart, do not help. The matrix of
# such a file has a row of zeros, so it has no inverse. The exit code is 0, and the words on stdout ("Unable to determine
# slice direction") do not say that slices were moved. Seen, with the place in mm as the pixel value:
#   GE MEDICAL SYSTEMS, Philips: first volume 0, 2, 4; second 0, 2, 4; third row of the matrix 0, 0, 2, 0
#   SIEMENS, TOSHIBA:            first volume 0, 0, 2; second 2, 4, 4; third row of the matrix 0, 0, 0, 0
#
# What follows for whoever receives such volumes: check the matrix, and refuse one that has no inverse.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install dcm2niix==1.0.20260724 pydicom==3.0.2 \
    nibabel==5.4.2 numpy==2.4.6

cat >"$folder/convert.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write(place, number, moment, height, uids, manufacturer):
    """Write one CT slice whose pixels hold its height, in mm."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = uids
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.StudyDate, data.StudyTime, data.SeriesNumber, data.ProtocolName = "20260102", "100000", 1, "two"
    data.Modality, data.InstanceNumber, data.ImageType = "CT", number, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.PatientPosition = manufacturer, 120, "HFS"
    data.AcquisitionNumber = data.TemporalPositionIdentifier = moment
    data.NumberOfTemporalPositions, data.AcquisitionTime = 2, f"10000{moment}"
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, height], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 2
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
    data.PixelData = np.full((8, 8), height, np.uint16).tobytes()
    data["PixelData"].VR = "OW"
    data.save_as(place, enforce_file_format=True)


series = Path(sys.argv[1]) / "series"
series.mkdir()
right, mixed = ([[0, 2, 4], [0, 2, 4]], [0, 0, 2, 0]), ([[0, 0, 2], [2, 4, 4]], [0, 0, 0, 0])
for name, expected in (("GE MEDICAL SYSTEMS", right), ("Philips", right), ("SIEMENS", mixed), ("TOSHIBA", mixed)):
    uids = [generate_uid() for _ in range(3)]
    for number, (moment, height) in enumerate([(1, 0), (2, 0), (1, 2), (2, 2), (1, 4), (2, 4)], 1):
        write(series / f"{number}.dcm", number, moment, height, uids, name)
    command = [str(Path(sys.executable).with_name("dcm2niix")), "-z", "n", "-b", "n", "-o", sys.argv[1], "-f", "volume"]
    done = subprocess.run([*command, str(series)], capture_output=True, text=True)
    place = Path(sys.argv[1]) / "volume.nii"
    image = nibabel.load(place)
    found = (np.asarray(image.dataobj)[0, 0].T.tolist(), image.affine[2].tolist())
    place.unlink()
    print(f"{name}: exit code {done.returncode}, volumes {found[0]}, third row {found[1]}")
    if done.returncode or found != expected:
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/convert.py" "$folder"
