#!/usr/bin/env bash
# dcmqi 1.5.7, `segimage2itkimage`: if a DICOM segmentation of overlapping CT slices does not state their step, frames
# of several slices end up in one slice of the volume, and most are not where they were drawn. If the slices have gaps
# between them, a segment gets stripes. highdicom 0.28.2 leaves the step out for a series that lost a single slice.
#
# The place of a frame is its Image Position (Patient) (PS3.3 C.7.6.16.2.3). Spacing Between Slices (0018,0088) is
# optional in the Pixel Measures (table C.7.6.16-2), and Slice Thickness (0018,0050) does not say where the next slice
# lies. dcmqi computes the step from the positions, and prints it ("Slice spacing: 2"). But for the volume it takes
# Spacing Between Slices, or else Slice Thickness, and puts each frame into the slice nearest to it. The exit code is
# 0. A line on stderr says "SliceThickness is present and is 5. using it!", also where that does no harm, and not that
# frames were moved or merged. In the discussion of dcmqi's pull request 89, of 2016, it was said that the thickness
# should never be used as the step. The documentation of the tool (docs/user_guide/segimage2itkimage.md) names no limit.
# The binary files pass dciodvfy without an error (not run here). By pydicom 3.0.2 and highdicom, each frame has its
# place, and highdicom builds a volume with the true step.
# Below, each frame marks one voxel. Seen in the NRRD volume, where "2 at 0" is the frame of 2 mm, put at 0 mm:
#   5 mm every 2 mm (highdicom states the step):
#     7 slices of 2 mm; all frames are where they were drawn
#   5 mm every 2 mm, step not stated:
#     3 slices of 5 mm; 0 and 2 at 0, 4 and 6 at 5, 8 and 10 and 12 at 10
#   5 mm every 2 mm, slice 6 lost, as highdicom writes it, binary or as a label map:
#     3 slices of 5 mm; 0 and 2 at 0, 4 at 5, 8 and 10 and 12 at 10
#   2 mm every 5 mm, slice 10 lost, as highdicom writes it:
#     14 slices of 2 mm, 9 of them empty; 0 at 0, 5 at 6, 15 at 16, 20 at 20, 25 at 26
#   5 mm every 5 mm, slice 10 lost, as highdicom writes it:
#     6 slices of 5 mm; all frames are where they were drawn
#
# What follows for whoever trains on segmentations from an archive: compare the volume's step with the positions of the
# frames, or read the file with highdicom (`get_volume(allow_missing_positions=True)`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install dcmqi==1.5.7 highdicom==0.28.2 pydicom==3.0.2 \
    SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/segments.py" <<'PYTHON'
import subprocess
import sys
import warnings
from pathlib import Path

import highdicom
import numpy as np
import SimpleITK
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROWS, COLUMNS, SPACING = 12, 16, (0.8, 0.6)
EVERY_2, WITHOUT_6, WITHOUT_10 = [0, 2, 4, 6, 8, 10, 12], [0, 2, 4, 8, 10, 12], [0, 5, 15, 20, 25]
MERGED = {0: [0, 2], 5: [4, 6], 10: [8, 10, 12]}
MERGED_WITHOUT_6 = {0: [0, 2], 5: [4], 10: [8, 10, 12]}
# thickness and places in mm; type; whether the step is removed; then whether the file states it; the step in the
# volume, how many slices it has, and which frames are where
CASES = {
    "5 mm every 2 mm": (5, EVERY_2, "BINARY", False, True, 2, 7, {place: [place] for place in EVERY_2}),
    "5 mm every 2 mm, step not stated": (5, EVERY_2, "BINARY", True, False, 5, 3, MERGED),
    "5 mm every 2 mm, slice 6 lost": (5, WITHOUT_6, "BINARY", False, False, 5, 3, MERGED_WITHOUT_6),
    "5 mm every 2 mm, slice 6 lost, label map": (5, WITHOUT_6, "LABELMAP", False, False, 5, 3, MERGED_WITHOUT_6),
    "2 mm every 5 mm, slice 10 lost": (
        2,
        WITHOUT_10,
        "BINARY",
        False,
        False,
        2,
        14,
        {0: [0], 6: [5], 16: [15], 20: [20], 26: [25]},
    ),
    "5 mm every 5 mm, slice 10 lost": (5, WITHOUT_10, "BINARY", False, False, 5, 6, {x: [x] for x in WITHOUT_10}),
}
folder = Path(sys.argv[1])
tool = Path(sys.executable).with_name("segimage2itkimage")
warnings.simplefilter("ignore")
faults = []


def check(what: str, holds: bool) -> None:
    if not holds:
        faults.append(what)


def ct_series(thickness: float, places: list[float]) -> list[Dataset]:
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    series = []
    for number, place in enumerate(places, 1):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID, image.Modality = CTImageStorage, generate_uid(), "CT"
        for name, uid in uids.items():
            setattr(image, name, uid)
        image.PatientID = image.PatientName = "P1"
        image.PatientBirthDate = image.PatientSex = image.AccessionNumber = image.StudyID = ""
        image.StudyDate, image.StudyTime, image.ReferringPhysicianName = "20260105", "101500", ""
        image.ImageType, image.InstanceNumber, image.SeriesNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], number, 1
        image.PixelSpacing, image.SliceThickness = list(SPACING), thickness
        image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-20, -30, place]
        image.Rows, image.Columns, image.SamplesPerPixel = ROWS, COLUMNS, 1
        image.PhotometricInterpretation, image.PixelRepresentation = "MONOCHROME2", 1
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.RescaleIntercept, image.RescaleSlope = 15, 0, 1
        image.PixelData = np.full((ROWS, COLUMNS), -1000, "<i2").tobytes()
        series.append(image)
    return series


def segmentation(series: list[Dataset], kind: str) -> Dataset:
    """Mark one voxel in each slice. Its column is the number of the slice."""
    masks = np.zeros((len(series), ROWS, COLUMNS), np.uint8)
    for number in range(len(series)):
        masks[number, 5, number] = 1
    described = highdicom.seg.SegmentDescription(
        1, "lung", codes.SCT.Tissue, codes.SCT.Lung, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    return highdicom.seg.Segmentation(
        series,
        masks,
        kind,
        [described],
        generate_uid(),
        2,
        generate_uid(),
        1,
        "maker",
        "model",
        "1",
        "1",
        content_creator_name="Doe^Jane",
    )


def frames_of(path: Path) -> list[tuple[int, float]]:
    """Return the marked column and the place of each frame, as the file states them."""
    image = dcmread(path)
    pixels = image.pixel_array.reshape(-1, ROWS, COLUMNS)
    groups = [group.PlanePositionSequence[0] for group in image.PerFrameFunctionalGroupsSequence]
    return [
        (int(np.argwhere(frame)[0][1]), float(group.ImagePositionPatient[2]))
        for frame, group in zip(pixels, groups, strict=True)
    ]


for number, (name, (thickness, places, kind, removed, stated, step, slices, expected)) in enumerate(CASES.items()):
    path, out = folder / f"{number}.dcm", folder / str(number)
    out.mkdir()
    made = segmentation(ct_series(thickness, places), kind)
    if removed:
        del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
        del made.DimensionOrganizationType
    made.save_as(path)
    measures = dcmread(path).SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    check(f"{name}: what is stated", ("SpacingBetweenSlices" in measures) == stated)
    check(f"{name}: thickness", measures.SliceThickness == thickness)
    # controls: the places in the file, by pydicom and by highdicom
    check(f"{name}: pydicom", sorted(frames_of(path)) == [(index, place) for index, place in enumerate(places)])
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    by_highdicom = {
        int(index[2]): float((volume.affine @ [*index, 1])[2]) for index in np.argwhere(np.asarray(volume.array) == 1)
    }
    check(f"{name}: highdicom", by_highdicom == {index: float(place) for index, place in enumerate(places)})

    command = [tool, "--inputDICOM", path, "--outputDirectory", out, "-t", "nrrd"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    check(f"{name}: the step that is printed", f"Slice spacing: {places[1] - places[0]}\n" in done.stdout)
    check(f"{name}: stderr", ("SliceThickness is present" in done.stderr) != stated)
    image = SimpleITK.ReadImage(str(out / "1.nrrd"))
    found: dict[float, list[float]] = {}
    for index in np.argwhere(SimpleITK.GetArrayFromImage(image))[:, ::-1].tolist():
        place = round(image.TransformIndexToPhysicalPoint(index)[2], 3) + 0
        found.setdefault(place, []).append(places[index[0]])
    shown = ", ".join(f"{' and '.join(map(str, held))} at {place:g}" for place, held in sorted(found.items()))
    size = image.GetSize()[2]
    print(f"{name}: {size} slices of {image.GetSpacing()[2]:g} mm; {shown}")
    check(f"{name}: places", found == expected)
    check(f"{name}: step", np.isclose(image.GetSpacing()[2], step) and size == slices)
print(*faults, sep="\n")
sys.exit("changed" if faults else 0)
PYTHON

"$folder/venv/bin/python" "$folder/segments.py" "$folder"
