#!/usr/bin/env bash
# imagedata 3.10.0: a CT series whose slices overlap or have gaps between them becomes a NIfTI volume whose slices are
# SliceThickness apart, not as far apart as they were taken. A chest of slices of 5 mm every 2 mm is then 2.5 times as
# long. In a MetaImage (format `itk`), this step is multiplied by the true one again, so that a contiguous series is
# wrong as well. Nothing is said.
#
# The place of a slice is its Image Position (Patient) (PS3.3 C.7.6.2.1.1). Slice Thickness (0018,0050) is nominal
# (table C.7-10) and does not say where the next slice lies. imagedata takes the distance from Spacing Between Slices
# (0018,0088), which is optional, or else from Slice Thickness. Its own `transformationMatrix`, and the DICOM files that
# it writes, have the true positions, so `spacing` and matrix of one Series contradict each other. For MetaImage it
# writes a direction whose third column is as long as the step, not 1. Its page on PyPI says that it handles "geometry
# information between the formats", and the docstring of `spacing` says "spacing in mm". SimpleITK 2.5.7 gives the true
# places from DICOM. Seen, for four slices every 2 mm: where each slice lies in mm, read by SimpleITK (in NIfTI, by
# nibabel 5.4.2 too):
#   slices of 2 mm, DICOM: 0 2 4 6;  NIfTI: 0 2 4 6;   MetaImage: 0 4 8 12;  `spacing` 2, matrix 2
#   slices of 5 mm, DICOM: 0 2 4 6;  NIfTI: 0 5 10 15; MetaImage: 0 10 20 30; `spacing` 5, matrix 2
#   slices of 1 mm, DICOM: 0 2 4 6;  NIfTI: 0 1 2 3;   MetaImage: 0 2 4 6;   `spacing` 1, matrix 2
#   slices of 5 mm that state Spacing Between Slices 2: as the slices of 2 mm
#
# What follows for whoever converts or measures CT with imagedata: compare the place of the last slice with the DICOM
# files. The height and the volume of the lungs are wrong by the same factor.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install imagedata==3.10.0 itk-io==5.4.7 pydicom==3.0.2 \
    nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/step.py" <<'PYTHON'
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from imagedata.series import Series
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

warnings.filterwarnings("error", message="(?i).*(spacing|thickness|slice)")
PLACES = [0, 2, 4, 6]
LEVELS = [0, 100, 200, 300]  # HU of the first pixel of each slice
# name: thickness and stated spacing; the places in NIfTI and in MetaImage; what imagedata says of the step
CASES = {
    "slices of 2 mm": (2, None, [0, 2, 4, 6], [0, 4, 8, 12], 2),
    "slices of 5 mm": (5, None, [0, 5, 10, 15], [0, 10, 20, 30], 5),
    "slices of 1 mm": (1, None, [0, 1, 2, 3], [0, 2, 4, 6], 1),
    "slices of 5 mm that state a spacing of 2": (5, 2, [0, 2, 4, 6], [0, 4, 8, 12], 2),
}


def write_series(folder: Path, thickness: int, spacing: int | None) -> None:
    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number, (place, level) in enumerate(zip(PLACES, LEVELS, strict=True), 1):
        pixels = np.full((5, 6), -1000 + 1024, np.uint16)
        pixels[0, 0] = level + 1024
        ct = Dataset()
        ct.file_meta = FileMetaDataset()
        ct.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ct.file_meta.MediaStorageSOPClassUID = ct.SOPClassUID = CTImageStorage
        ct.file_meta.MediaStorageSOPInstanceUID = ct.SOPInstanceUID = generate_uid()
        ct.StudyInstanceUID, ct.SeriesInstanceUID, ct.FrameOfReferenceUID = study, series, frame
        ct.ImageType, ct.Modality, ct.Manufacturer = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT", ""
        ct.PatientName, ct.PatientID, ct.PatientBirthDate, ct.PatientSex = "A^B", "1", "", ""
        ct.StudyID, ct.AccessionNumber, ct.ReferringPhysicianName, ct.PatientPosition = "1", "", "", "HFS"
        ct.StudyDate = ct.SeriesDate = ct.AcquisitionDate = ct.ContentDate = "20260101"
        ct.StudyTime = ct.SeriesTime = ct.AcquisitionTime = ct.ContentTime = "120000"
        ct.SeriesNumber = ct.AcquisitionNumber = 1
        ct.InstanceNumber, ct.KVP, ct.PositionReferenceIndicator = number, 120, ""
        ct.ImagePositionPatient, ct.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
        ct.PixelSpacing, ct.SliceThickness = [0.7, 0.7], thickness
        if spacing is not None:
            ct.SpacingBetweenSlices = spacing
        ct.SamplesPerPixel, ct.PhotometricInterpretation = 1, "MONOCHROME2"
        ct.Rows, ct.Columns = pixels.shape
        ct.BitsAllocated, ct.BitsStored, ct.HighBit, ct.PixelRepresentation = 16, 12, 11, 0
        ct.RescaleIntercept, ct.RescaleSlope, ct.RescaleType = -1024, 1, "HU"
        ct.PixelData = pixels.tobytes()
        ct.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def by_simpleitk(image: SimpleITK.Image) -> list[float]:
    """Return where the pixel of each level lies, in mm to the head."""
    voxels = SimpleITK.GetArrayFromImage(image)
    indices = [np.argwhere(voxels == level)[0][::-1].tolist() for level in LEVELS]
    return [image.TransformIndexToPhysicalPoint(index)[2] for index in indices]


def by_nibabel(path: Path) -> list[float]:
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj)
    return [float((image.affine @ [*np.argwhere(voxels == level)[0], 1])[2]) for level in LEVELS]


has_changed = False
for case, (thickness, spacing, by_nifti, by_meta, step) in CASES.items():
    folder = Path(sys.argv[1]) / str(len(list(Path(sys.argv[1]).iterdir())))
    folder.mkdir()
    write_series(folder / "dicom", thickness, spacing)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom")))
    series = Series(str(folder / "dicom"))
    series.write(str(folder / "volume"), formats=["nifti"])
    series.write(str(folder / "volume"), formats=["itk"])
    series.write(str(folder / "again"), formats=["dicom"])
    matrix = float(np.linalg.norm(np.asarray(series.transformationMatrix)[:3, 0]))
    again = sorted(float(dcmread(path).ImagePositionPatient[2]) for path in (folder / "again").rglob("*.dcm"))
    seen = {
        "DICOM": (by_simpleitk(reader.Execute()), PLACES),
        "NIfTI": (by_simpleitk(SimpleITK.ReadImage(str(folder / "volume.nii.gz"))), by_nifti),
        "NIfTI by nibabel": (by_nibabel(folder / "volume.nii.gz"), by_nifti),
        "MetaImage": (by_simpleitk(SimpleITK.ReadImage(str(folder / "volume.mha"))), by_meta),
        "positions in the DICOM of imagedata": (again, PLACES),
        "spacing and matrix": ([float(series.spacing[0]), matrix], [step, 2]),
    }
    for name, (numbers, expected) in seen.items():
        print(f"{case}: {name} {' '.join(f'{round(number, 3) + 0:g}' for number in numbers)}")
        has_changed |= not np.allclose(numbers, expected, atol=1e-3)
sys.exit("changed" if has_changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/step.py" "$folder"
