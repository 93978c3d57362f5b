#!/usr/bin/env bash
# A NIfTI file in micrometres or metres: SimpleITK 2.5.7 turns sizes and places into mm, nibabel 5.4.2 does not. The two
# readers differ by a factor of 1000, and nothing is said. The voxels and the order of slices are the same in both.
#
# NIfTI-1 states the unit of pixdim in xyzt_units (nifti1.h, "units of spatial and temporal dimensions"): metre, mm,
# micrometre, or unknown. SimpleITK (ITK) multiplies sizes and origin by it. nibabel's `affine` and `get_zooms()` are
# the numbers in the file, and the unit is in `header.get_xyzt_units()` only. Voxels of 700 x 700 x 1500 micrometres
# then have a volume of 735,000,000 "mm3" instead of 0.735. A way to get mm was proposed in 2017 (nibabel pull request
# 567), and is still open. Seen, for the same voxels of 0.7 x 0.7 x 1.5 mm, and the place of slice 10:
#   mm:     nibabel 0.7 0.7 1.5, slice 10 at 15;             SimpleITK 0.7 0.7 1.5, at 15
#   micron: nibabel 700 700 1500, slice 10 at 15000;         SimpleITK 0.7 0.7 1.5, at 15
#   meter:  nibabel 0.0007 0.0007 0.0015, slice 10 at 0.015; SimpleITK 0.7 0.7 1.5, at 15
#   unknown, as in the first line: both 0.7 0.7 1.5, at 15
#
# What follows for whoever reads CT from NIfTI: multiply the affine by the file's unit before anything is measured in
# mm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import sys

import nibabel
import numpy as np
import SimpleITK

MM = np.diag([0.7, 0.7, 1.5, 1.0])
FACTORS = {"mm": 1, "micron": 1000, "meter": 0.001, "unknown": 1}
SLICE = 10

voxels = np.zeros((4, 4, 12), np.int16)
has_changed = False
for unit, factor in FACTORS.items():
    path = f"{sys.argv[1]}/volume.nii"
    affine = MM * [[factor], [factor], [factor], [1]]
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_qform(affine, "scanner")
    image.set_sform(affine, "scanner")
    image.header.set_xyzt_units(unit)
    nibabel.save(image, path)

    read = nibabel.load(path)
    by_nibabel = [*map(float, read.header.get_zooms()), float((read.affine @ [0, 0, SLICE, 1])[2])]
    volume = SimpleITK.ReadImage(path)
    by_simpleitk = [*volume.GetSpacing(), volume.TransformIndexToPhysicalPoint((0, 0, SLICE))[2]]
    mm = np.array([0.7, 0.7, 1.5, 1.5 * SLICE])
    for name, numbers, expected in (("nibabel", by_nibabel, mm * factor), ("SimpleITK", by_simpleitk, mm)):
        print(f"{unit}: {name} {' '.join(f'{number:g}' for number in numbers[:3])}, slice {SLICE} at {numbers[3]:g}")
        has_changed |= not np.allclose(numbers, expected, rtol=1e-5)
sys.exit("changed" if has_changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
