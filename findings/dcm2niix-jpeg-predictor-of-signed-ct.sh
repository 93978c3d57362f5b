#!/usr/bin/env bash
# dcm2niix 1.0.20260724 reads signed CT in lossless JPEG wrongly if the encoder used predictor 5, 6 or 7: more than half
# of the pixels differ, by up to 32768 HU. The exit code is 0, and nothing is said. SimpleITK 2.5.7, pydicom 3.0.2 with
# pylibjpeg-libjpeg 2.5.0, and libjpeg-turbo (imagecodecs 2026.3.6) give back what was encoded.
#
# JPEG Lossless, Process 14 (1.2.840.10008.1.2.4.57, PS3.5 A.4.1) allows all seven predictors of ITU-T T.81 table H.1.
# Only 1.2.840.10008.1.2.4.70 fixes the first. dcmtk's `dcmcjpeg --encode-lossless` takes number 6 if no other is asked
# for. JPEG samples are unsigned: -1000 is coded as 64536. Predictors 5 to 7 halve a number, and the half of 64536 is
# not the half of -1000 in 16 bits. dcm2niix gives what one gets by halving -1000, and each wrong pixel predicts the
# next ones. Where all stored values are 0 or more, it is right with each predictor, so unsigned test files do not show
# it. Seen, for a disc of soft tissue in air (64 x 64 pixels, -1000 to 70 HU), in dcm2niix:
#   signed, predictors 1 to 4: all pixels are right
#   signed, predictor 5: 2393 of 4096 pixels differ, by up to 32768
#   signed, predictor 6: 2421 of 4096 pixels differ, by up to 32768
#   signed, predictor 7: 3969 of 4096 pixels differ, by up to 32758
#   unsigned with intercept -1024, predictors 1 to 7: all pixels are right
#
# What follows for whoever converts CT: decompress lossless JPEG with another tool first, and compare a slice of each
# transfer syntax, signed and unsigned, with a second reader.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install dcm2niix==1.0.20260724 SimpleITK==2.5.7 \
    pydicom==3.0.2 pylibjpeg==2.1.0 pylibjpeg-libjpeg==2.5.0 imagecodecs==2026.3.6 nibabel==5.4.2 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import SimpleITK
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import CTImageStorage, JPEGLossless, generate_uid

SIDE = 64
OFFSET = 1024


def disc():
    """Return int64[SIDE, SIDE] in HU: a disc of 40 HU in air of -970 HU, with noise of at most 30 HU."""
    row, column = np.mgrid[:SIDE, :SIDE]
    inside = (row - SIDE // 2) ** 2 + (column - SIDE // 2) ** 2 < 500
    return np.where(inside, 40, -970) + np.random.default_rng(0).integers(-30, 31, (SIDE, SIDE))


def write(path, hu, predictor, is_signed):
    """Write a CT slice whose pixels are coded with this predictor."""
    cells = (hu if is_signed else hu + OFFSET).astype(np.int16).view(np.uint16)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGLossless
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.SeriesNumber = "", "", 1
    data.Modality, data.InstanceNumber, data.ImageType = "CT", 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.AcquisitionNumber = "none", 120, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [1, 1], 1, SIDE, SIDE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, int(is_signed)
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0 if is_signed else -OFFSET, "HU"
    coded = imagecodecs.jpeg8_encode(cells, lossless=True, predictor=predictor, bitspersample=16)
    data.PixelData = encapsulate([coded])
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)


def by_dcm2niix(path):
    out = path.parent / "nifti"
    out.mkdir()
    command = ["dcm2niix", "-b", "n", "-f", "out", "-o", str(out), str(path.parent)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = out.glob("*.nii")
    return nibabel.load(file).get_fdata().reshape(SIDE, SIDE)[:, ::-1].T  # NIfTI counts rows from the back to the front


def by_simpleitk(path):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]


def by_pydicom(path):
    data = dcmread(path)
    data.pixel_array_options(decoding_plugin="pylibjpeg")
    return data.pixel_array.astype(np.int64) + int(data.RescaleIntercept)


def by_libjpeg_turbo(path):
    data = dcmread(path)
    cells = imagecodecs.jpeg8_decode(get_frame(data.PixelData, 0, number_of_frames=1))
    return cells.view(np.int16) + int(data.RescaleIntercept)  # all values fit in int16


hu = disc()
has_changed = False
EXPECTED = {(True, 5): (2393, 32768), (True, 6): (2421, 32768), (True, 7): (3969, 32758)}
for is_signed in (True, False):
    for predictor in range(1, 8):
        folder = Path(sys.argv[1]) / f"{is_signed}{predictor}"
        folder.mkdir()
        path = folder / "slice.dcm"
        write(path, hu, predictor, is_signed)
        for reader in (by_simpleitk, by_pydicom, by_libjpeg_turbo):
            has_changed |= not np.array_equal(reader(path), hu)
        error = np.abs(by_dcm2niix(path) - hu)
        seen = int((error > 0).sum()), int(error.max())
        has_changed |= seen != EXPECTED.get((is_signed, predictor), (0, 0))
        kind = "signed" if is_signed else "unsigned"
        print(f"{kind}, predictor {predictor}: dcm2niix differs in {seen[0]} pixels, by up to {seen[1]:g}")
sys.exit("changed" if has_changed else 0)
PYTHON

PATH="$folder/venv/bin:$PATH" "$folder/venv/bin/python" "$folder/read.py" "$folder"
