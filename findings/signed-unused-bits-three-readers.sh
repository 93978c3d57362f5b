#!/usr/bin/env bash
# Signed CT pixels of 12 bits stored in 16, whose four unused bits are zero, read differently in three readers: SimpleITK
# 2.5.7 is right in each of three transfer syntaxes, dicomsdl 0.109.4 in none, and pydicom 3.0.2 only where the pixels
# are not compressed. Where a reader is wrong, each negative value comes out 4096 too high, and nothing is said.
#
# The sign of a sample is its bit HighBit (PS3.5 8.1.1); what stands above it is not promised to repeat it. Encoders that
# copy stored words, such as dcmcjpls of dcmtk, write such files, and an uncompressed file may look like this too.
# pydicom repeats the sign for uncompressed pixels only: for JPEG-LS and JPEG 2000 it believes the decoder's 16 bits.
# Lossless files with the same samples are then no longer equal to their uncompressed twin. Seen, of stored -1000:
#   uncompressed: SimpleITK -1000, pydicom -1000, dicomsdl 3096
#   JPEG-LS:      SimpleITK -1000, pydicom 3096, dicomsdl 3096
#   JPEG 2000:    SimpleITK -1000, pydicom 3096, dicomsdl 3096
#
# What follows for whoever reads CT: shift the sign down by BitsAllocated - BitsStored after decoding, in each syntax.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install SimpleITK==2.5.7 pydicom==3.0.2 dicomsdl==0.109.4 \
    pyjpegls==1.5.1 pylibjpeg==2.1.0 pylibjpeg-openjpeg==2.6.0 imagecodecs==2026.3.6 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import sys

import dicomsdl
import imagecodecs
import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, generate_uid

STORED = np.full((8, 8), -1000, np.int16).view(np.uint16) & 0x0FFF


def write(place, syntax, pixels):
    """Write one CT slice of signed pixels, 12 bits stored in 16."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.Modality, data.InstanceNumber = "CT", 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [1, 1], 1
    data.Rows = data.Columns = 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 1
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
    data.PixelData = pixels if syntax == ExplicitVRLittleEndian else encapsulate([pixels])
    data["PixelData"].VR = "OW" if syntax == ExplicitVRLittleEndian else "OB"
    data.save_as(place, enforce_file_format=True)
    return place


cases = (
    ("uncompressed", ExplicitVRLittleEndian, STORED.tobytes(), [-1000, -1000, 3096]),
    ("JPEG-LS", JPEGLSLossless, imagecodecs.jpegls_encode(STORED), [-1000, 3096, 3096]),
    ("JPEG 2000", JPEG2000Lossless, imagecodecs.jpeg2k_encode(STORED, codecformat="j2k", level=0), [-1000, 3096, 3096]),
)
for name, syntax, pixels, as_read in cases:
    place = write(f"{sys.argv[1]}/{syntax}.dcm", syntax, pixels)
    found = [
        int(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(place)).flat[0]),
        int(dcmread(place).pixel_array.flat[0]),
        int(dicomsdl.open(place).pixelData(storedvalue=True).flat[0]),
    ]
    print("{}: SimpleITK {}, pydicom {}, dicomsdl {}".format(name, *found))
    if found != as_read:
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
