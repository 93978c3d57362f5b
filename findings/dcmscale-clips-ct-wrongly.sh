#!/usr/bin/env bash
# dcmscale of dcmtk 3.6.7 (Debian 12): a CT slice that was clipped with `+C` has other Hounsfield units, other pixel
# sizes and another place than before. The brightest pixels become negative if the region holds no negative HU. The
# pixels grow as if the whole slice had been squeezed into the region. The exit code is 0, and nothing is said.
#
# There are four faults. (1) dcmscale writes HU as stored values, with intercept 0. It takes Bits Stored from the range
# of values in the region, but Pixel Representation from the whole slice. 0 to 180 fit into 8 bits without a sign. With
# one, since the slice has air elsewhere, they end at 127: the sign of a value is its highest stored bit (PS3.5 8.1.1).
# So 180 HU is read as -76. (2) It multiplies Pixel Spacing (PS3.3 10.7.1.1) by the slice's size over the region's.
# (3) It keeps Image Position (Patient), which is the centre of the first pixel (PS3.3 C.7.6.2.1.1). (4) Pixel Padding
# Value (PS3.3 C.7.5.1.1.2) keeps the old number, so that padding becomes air, and water becomes padding. Fault 4 also
# comes without `+C`. The manual page describes `+C` as "clip rectangular image region", and names no limit, also in
# dcmtk's repository (2023). The source there (dcmimgle, diimage.cc at 023c4b7) computes the size as here. pydicom 3.0.2
# and SimpleITK 2.5.7 agree on what the files state. Below, the slice has pixels of 0.7 mm, padding, air of -1000 HU,
# water, tissue of 40 HU, and two vessels of 180 HU that are 14 mm apart. Seen: HU, and how far the vessels are apart,
# and from their places on the axis from right to left
#   scaled by 1:                -1024 -1000 0 40 180, pixels of 0.7 mm;  14 mm, 0 and 0 mm;      padding is 0 HU
#   scaled by 2:                -1024 -1000 0 40 180, pixels of 0.35 mm; 14 mm, 0.2 and 0.2 mm;  padding is 0 HU
#   half as wide, with air:     -1000 0 40 180,       pixels of 1.4 mm;  28 mm, 1.4 and 15.4 mm; padding is 0 HU
#   half as wide, tissue only:  -76 0 40,             pixels of 1.4 mm;  28 mm, -9.8 and 4.2 mm; padding is 0 HU
#   the same, scaled by 2:      -76 0 40,             pixels of 0.7 mm;  28 mm, -9.5 and 4.5 mm; padding is 0 HU
#
# What follows for whoever cuts regions out of CT: cut arrays with another library, or compare the HU and the distance
# of two points before and after. Files that state "Clipped rectangular image region" (0008,2111) may be such files.
#
# This needs Debian 12, with the packages that libdcmtk17 depends on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get --quiet=2 download dcmtk=3.6.7-9~deb12u4 libdcmtk17=3.6.7-9~deb12u4 2>/dev/null)
for package in "$folder"/*.deb; do
    dpkg --extract "$package" "$folder/dcmtk"
done
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pydicom==3.0.2 SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/clip.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SIZE, SPACING, CORNER, PADDING = 128, 0.7, (-44.8, -44.8), 0
SPOTS = [(64, 50), (64, 70)]  # row and column of two vessels, 14 mm apart
OUTSIDE, AIR, WATER, TISSUE, VESSEL = -1024, -1000, 0, 40, 180
ALL = [OUTSIDE, AIR, WATER, TISSUE, VESSEL]
TWICE, TISSUE_ONLY, WITH_AIR = ("-i", "+Sxf", "2"), ("+C", "32", "32", "64", "64"), ("+C", "24", "32", "64", "64")
# options; the pixel spacing and the corner in mm that are true, and those seen; the HU in the region, and those seen
CASES = {
    "as large as before": (("-i", "+Sxf", "1"), 0.7, CORNER, 0.7, CORNER, ALL, ALL),
    "twice as large": (TWICE, 0.35, CORNER, 0.35, CORNER, ALL, ALL),
    "clipped, with air": (WITH_AIR, 0.7, (-28, -22.4), 1.4, CORNER, ALL[1:], ALL[1:]),
    "clipped, tissue only": (TISSUE_ONLY, 0.7, (-22.4, -22.4), 1.4, CORNER, ALL[2:], [-76, WATER, TISSUE]),
    "clipped, tissue only, twice as large": (
        (*TISSUE_ONLY, *TWICE),
        0.35,
        (-22.4, -22.4),
        0.7,
        CORNER,
        ALL[2:],
        [-76, WATER, TISSUE],
    ),
}
folder = Path(sys.argv[1])
faults = []


def check(what: str, holds: bool) -> None:
    if not holds:
        faults.append(what)


def write(path: Path) -> None:
    """Write a slice: a square of tissue in air, with some water and two vessels, and padding around the air."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    hu = np.full((SIZE, SIZE), AIR)
    hu[32:96, 32:96] = TISSUE
    hu[80:90, 40:60] = WATER
    for spot in SPOTS:
        hu[spot] = VESSEL
    stored = hu + 1024
    stored[np.hypot(rows - 63.5, columns - 63.5) > 62] = PADDING
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.SOPInstanceUID, image.Modality = CTImageStorage, generate_uid(), "CT"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = [generate_uid() for _ in range(3)]
    image.PatientID = image.PatientName = "P1"
    image.ImageType, image.InstanceNumber = ["ORIGINAL", "PRIMARY", "AXIAL"], 1
    image.PixelSpacing, image.SliceThickness = [SPACING, SPACING], 1.5
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [*CORNER, 60]
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = SIZE, SIZE, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = -1024, 1, "HU"
    image.add_new("PixelPaddingValue", "US", PADDING)
    image.PixelData = stored.astype("<u2").tobytes()
    image.save_as(path, enforce_file_format=True)


def hu_of(image: Dataset) -> np.ndarray:
    return image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)


def spots_of(path: Path) -> np.ndarray:
    """Return the places of the two vessels in mm, by SimpleITK. Their HU may be wrong."""
    image = SimpleITK.ReadImage(str(path))
    found = np.argwhere(~np.isin(SimpleITK.GetArrayFromImage(image)[0], (OUTSIDE, AIR, WATER, TISSUE)))
    middle = found[:, 1].mean()
    spots = [found[found[:, 1] < middle].mean(axis=0), found[found[:, 1] > middle].mean(axis=0)]
    return np.array([image.TransformContinuousIndexToPhysicalPoint([*spot[::-1].tolist(), 0.0])[:2] for spot in spots])


def padding_of(image: Dataset) -> list[float]:
    """Return the HU of all pixels that are padding, by what the file states."""
    return np.unique(hu_of(image)[image.pixel_array == image.PixelPaddingValue]).tolist()


source = folder / "ct.dcm"
write(source)
original = dcmread(source)
true = spots_of(source)
check("source: HU", sorted(set(hu_of(original).ravel())) == ALL and padding_of(original) == [OUTSIDE])
check("source: places", np.allclose(true[0], (CORNER[0] + 50 * SPACING, CORNER[1] + 64 * SPACING)))
libraries = next((folder / "dcmtk/usr/lib").glob("*/libdcmdata.so.17")).parent
environment = {
    "LD_LIBRARY_PATH": str(libraries),
    "DCMDICTPATH": str(folder / "dcmtk/usr/share/libdcmtk17/dicom.dic"),
}
for name, (options, spacing, corner, seen_spacing, seen_corner, region_hu, seen_hu) in CASES.items():
    path = folder / "out.dcm"
    command = [folder / "dcmtk/usr/bin/dcmscale", *options, source, path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    check(f"{name}: a warning", not (done.stdout + done.stderr).strip())
    image = dcmread(path)
    by_simpleitk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0]
    hu, spots = sorted(set(hu_of(image).ravel())), spots_of(path)
    check(f"{name}: SimpleITK and pydicom", np.array_equal(hu_of(image), by_simpleitk))
    stated = [float(number) for number in (*image.PixelSpacing, *image.ImagePositionPatient)]
    apart, off = spots[1, 0] - spots[0, 0], (spots - true).round(1) + 0
    print(
        f"{name}: {' '.join(f'{number:g}' for number in hu)} HU; pixels of {stated[0]:g} mm; vessels {apart:.1f} mm"
        f" apart, {off[0].tolist()} and {off[1].tolist()} mm from their places; padding is {padding_of(image)} HU;"
        f" {image.BitsStored} bits, {'signed' if image.PixelRepresentation else 'unsigned'}"
    )
    check(f"{name}: HU", hu == seen_hu)
    check(f"{name}: what is stated", np.allclose(stated, (seen_spacing, seen_spacing, *seen_corner, 60)))
    check(f"{name}: padding", padding_of(image) == [WATER])
    # control: with the true spacing, corner and HU, the same pixels are right
    stored = np.frombuffer(image.PixelData, "<i2").reshape(by_simpleitk.shape)
    vessels = np.argwhere(stored == VESSEL)
    check(f"{name}: all bits of the words", sorted(set(stored.ravel().tolist())) == region_hu)
    middle = np.add(corner, np.argwhere(stored == VESSEL).mean(axis=0)[::-1] * spacing)
    check(f"{name}: control", np.allclose(middle, true.mean(axis=0), atol=0.2))
print(*faults, sep="\n")
sys.exit("changed" if faults else 0)
PYTHON

"$folder/venv/bin/python" "$folder/clip.py" "$folder"
