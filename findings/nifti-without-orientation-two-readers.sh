#!/usr/bin/env bash
# A NIfTI file that states no orientation (qform_code and sform_code are 0): nibabel 5.4.2 and SimpleITK 2.5.7 both give
# one all the same, and not the same one: rows run to the front of the patient in one, to the back in the other.
#
# Such files are common: converters that know nothing of the patient write them. NIfTI-1 calls this "method 1" and states
# no direction of any axis. nibabel makes an affine up (first axis to the left, rows to the front: LAS, as Analyze had
# it). SimpleITK sets the identity, which in its own axes means first axis to the left, rows to the back (LPS). Neither
# warns. Where a slice is drawn by either, the spine lies at the top in one and at the bottom in the other. Seen:
#   nibabel: L A S
#   SimpleITK: L P S
#
# What follows for whoever reads CT from NIfTI: check both codes, and refuse a file in which both are 0.
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

image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), None)
assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (0, 0)
nibabel.save(image, sys.argv[1])

by_nibabel = " ".join(nibabel.aff2axcodes(nibabel.load(sys.argv[1]).affine))
directions = np.reshape(SimpleITK.ReadImage(sys.argv[1]).GetDirection(), (3, 3))
letters = np.array(["LR", "PA", "SI"])  # SimpleITK's axes point to the left, to the back and to the head
by_simpleitk = " ".join(letters[axis][int(directions[axis, axis] < 0)] for axis in range(3))
print(f"nibabel: {by_nibabel}\nSimpleITK: {by_simpleitk}")
if (by_nibabel, by_simpleitk) != ("L A S", "L P S"):
    sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder/volume.nii"
