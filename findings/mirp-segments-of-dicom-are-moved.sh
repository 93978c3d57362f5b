#!/usr/bin/env bash
# MIRP 2.7.0 (radiomics by the IBSI) puts the segments of a DICOM segmentation where they were not drawn, so that its
# features are those of other tissue. Of a file with several segments, each gets the pixels of the first. The exit code
# is 0, and nothing is said. The same masks in NIfTI are read correctly.
#
# There are three faults, all in `_data_import/dicom_multi_frame.py`. (1) MIRP takes the place of the frame that has the
# lowest number (In-Stack Position, or Dimension Index Values) for the corner, and stacks the others along the normal of
# the slices, which runs from feet to head for axial CT. The standard does not order frames: each states its own place
# (Image Position (Patient), PS3.3 C.7.6.16.2.3). highdicom 0.28.2 numbers them from head to feet, so a segment is
# mirrored at its uppermost slice. (2) It stacks the frames of a segment without gaps. highdicom leaves out slices
# without a segment by default. (3) For the pixels, the number of a frame within its segment is taken for the number of
# the frame in the file. The second segment below therefore has the volume of the first. dcmqi 1.5.7 numbers frames from
# feet to head and writes the slices between, so of its files only those with several segments are read wrongly.
# MIRP's README lists SEG among the masks. It says that multi-frame DICOM is supported "provisionally", but names none
# of these limits. pydicom 3.0.2, highdicom and dcmqi agree on the place of each voxel in all six files. Seen: the
# mean of the CT under each segment in HU, and in brackets the segment's volume in mm3
#                                   true, and MIRP from NIfTI   MIRP from dcmqi        MIRP from highdicom
#   one segment, slices 3 to 5      -350 (108)                  -350 (108)             -150 (108)
#   one segment, slices 3, 4, 7     -283 (108)                  -283 (108)             50 (108)
#   two segments, slices 3 to 5     -400 (144), -350 (108)      -400 (144), -400 (144) -200 (144), -200 (144)
# If the segment then lies outside the CT altogether, MIRP fails (not shown).
#
# What follows for whoever computes features from DICOM segmentations: convert them to NIfTI with dcmqi or highdicom
# first, and compare the mean HU and the volume of each segment. The volume of a single segment does not show the fault.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install mirp==2.7.0 highdicom==0.28.2 dcmqi==1.5.7 \
    pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6 pandas==3.1.1

cat >"$folder/segments.py" <<'PYTHON'
import json
import logging
import subprocess
import sys
from pathlib import Path

import highdicom
import mirp
import numpy as np
import pydicom
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

folder = Path(sys.argv[1])
tools = Path(sys.executable).parent
SLICES, ROWS, STEP = 12, 16, 2
study, series, frame = generate_uid(), generate_uid(), generate_uid()

# Each slice has a value of its own, and so has the half of it that lies to the left.
hu = np.empty((SLICES, ROWS, ROWS), np.int16)
hu[:] = -800 + 100 * np.arange(SLICES)[:, None, None]
hu[:, :, ROWS // 2 :] += 50
(folder / "ct").mkdir()
images = []
for number in range(SLICES):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = study, series, frame
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Test^Test", "1", "", "O"
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20260101", "120000", "1", "1"
    image.ReferringPhysicianName, image.Manufacturer, image.KVP = "", "", 120
    image.SeriesNumber, image.AcquisitionNumber, image.InstanceNumber = 1, 1, number + 1
    image.PositionReferenceIndicator, image.PatientPosition = "", "HFS"
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, STEP * number], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [1, 1], STEP
    image.Rows = image.Columns = ROWS
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation, image.RescaleSlope, image.RescaleIntercept = 15, 1, 1, 0
    image.RescaleType = "HU"
    image.PixelData = hu[number].tobytes()
    image.save_as(folder / "ct" / f"{number:02}.dcm", enforce_file_format=True)
    images.append(image)


def box(slices, columns):
    mask = np.zeros(hu.shape, bool)
    mask[slices, 4:10, columns] = True
    return mask


def by_highdicom(masks, path):
    by = highdicom.AlgorithmIdentificationSequence("Test", codes.DCM.ArtificialIntelligence, "1")
    descriptions = [
        highdicom.seg.SegmentDescription(
            number, f"s{number}", codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", algorithm_identification=by
        )
        for number in range(1, len(masks) + 1)
    ]
    segments = np.stack(masks, -1).astype(np.uint8)
    highdicom.seg.Segmentation(
        images, segments, "BINARY", descriptions, generate_uid(), 2, generate_uid(), 1, "Test", "Test", "1", "1"
    ).save_as(path)


def volume(masks):
    labels = sum(number * mask.astype(np.uint8) for number, mask in enumerate(masks, 1))
    result = SimpleITK.GetImageFromArray(labels)
    result.SetSpacing((1, 1, STEP))
    return result


def by_dcmqi(masks, path):
    tissue = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    attributes = [
        {
            "labelID": number,
            "SegmentLabel": f"s{number}",
            "SegmentDescription": f"s{number}",
            "SegmentAlgorithmType": "AUTOMATIC",
            "SegmentAlgorithmName": "Test",
            "SegmentedPropertyCategoryCodeSequence": tissue,
            "SegmentedPropertyTypeCodeSequence": tissue,
        }
        for number in range(1, len(masks) + 1)
    ]
    description = {
        "ContentCreatorName": "Test",
        "SeriesDescription": "Test",
        "SeriesNumber": "2",
        "InstanceNumber": "1",
        "segmentAttributes": [attributes],
    }
    (folder / "meta.json").write_text(json.dumps(description))
    SimpleITK.WriteImage(volume(masks), folder / "labels.nrrd")
    command = [tools / "itkimage2segimage", "--inputImageList", folder / "labels.nrrd"]
    command += ["--inputMetadata", folder / "meta.json", "--inputDICOMDirectory", folder / "ct"]
    subprocess.run([*command, "--outputDICOM", path], check=True, capture_output=True)


def by_mirp(path):
    """Mean HU and volume of each segment."""
    logging.disable(logging.INFO)
    table = mirp.extract_features(
        image=str(folder / "ct"), mask=str(path), base_feature_families=["statistics", "morphology"]
    )[0]
    table = table.sort_values("image_mask_label")
    return [(round(mean), round(size)) for mean, size in zip(table["stat_mean"], table["morph_vol_approx"])]


def read(path):
    """The frames, where each of them says that it lies, and what highdicom and dcmqi make of the file."""
    file = pydicom.dcmread(path)
    masks = [np.zeros(hu.shape, bool) for _ in file.SegmentSequence]
    pixels = file.pixel_array.reshape(-1, ROWS, ROWS)
    order = []
    for groups, picture in zip(file.PerFrameFunctionalGroupsSequence, pixels):
        place = float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        stated = groups if "SegmentIdentificationSequence" in groups else file.SharedFunctionalGroupsSequence[0]
        segment = stated.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        masks[segment - 1][round(place / STEP)] |= picture == 1
        order.append(place)
    whole = highdicom.seg.segread(path).get_volume(combine_segments=False, allow_missing_positions=True)
    for number, mask in enumerate(masks):
        there = whole.array[..., number] == 1
        assert there.sum() == mask.sum()
        for at in np.argwhere(there):
            x, y, z = whole.map_indices_to_reference(at[None])[0]
            assert mask[round(z / STEP), round(y), round(x)]
    out = folder / f"{path.stem}-out"
    out.mkdir()
    command = [tools / "segimage2itkimage", "--inputDICOM", path, "--outputDirectory", out]
    subprocess.run([*command, "--outputType", "nrrd"], check=True, capture_output=True)
    for number, mask in enumerate(masks, 1):
        result = SimpleITK.ReadImage(out / f"{number}.nrrd")
        array = SimpleITK.GetArrayFromImage(result)
        assert (array > 0).sum() == mask.sum()
        for at in np.argwhere(array):
            x, y, z = result.TransformIndexToPhysicalPoint(at[::-1].tolist())
            assert mask[round(z / STEP), round(y), round(x)]
    return masks, order


left, right = slice(10, 13), slice(3, 7)
one, other = (-350, 108), (-400, 144)
cases = {
    "one segment, slices 3 to 5": ([box([3, 4, 5], left)], [one], [one], [(-150, 108)]),
    "one segment, slices 3, 4 and 7": ([box([3, 4, 7], left)], [(-283, 108)], [(-283, 108)], [(50, 108)]),
    "two segments, slices 3 to 5": (
        [box([3, 4, 5], right), box([3, 4, 5], left)],
        [other, one],
        [other, other],
        [(-200, 144), (-200, 144)],
    ),
}
for number, (name, (masks, true, *expected)) in enumerate(cases.items()):
    assert true == [(round(hu[mask].mean()), int(mask.sum()) * STEP) for mask in masks]
    SimpleITK.WriteImage(volume(masks), folder / f"{number}.nii")
    assert by_mirp(folder / f"{number}.nii") == true
    print(f"{name}: true, and MIRP from NIfTI: {true}")
    for writer, write, wanted in (("dcmqi", by_dcmqi, expected[0]), ("highdicom", by_highdicom, expected[1])):
        path = folder / f"{writer}{number}.dcm"
        write(masks, path)
        stated, order = read(path)
        assert all(np.array_equal(*pair) for pair in zip(stated, masks, strict=True)), (name, writer)
        assert (order[0] < order[1]) == (writer == "dcmqi")
        seen = by_mirp(path)
        print(f"  MIRP from {writer}: {seen}")
        if seen != wanted:
            sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/segments.py" "$folder" 2>/dev/null
