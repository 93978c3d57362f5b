#!/usr/bin/env bash
# A NIfTI file whose scl_slope is 0: nibabel 5.4.2 gives the stored numbers, SimpleITK 2.5.7 adds scl_inter to them.
#
# The NIfTI-1 header (nifti1.h, "data scaling") scales only where scl_slope is not 0, so nibabel is right: 0 means that
# no scaling is stated, whatever scl_inter holds. SimpleITK (ITK's reader) takes the slope for 1 and still adds the
# intercept. A CT whose header says slope 0 and intercept -1024 is 1024 HU darker in one of two well-known readers,
# without a warning. A slope that is not a number behaves the same. With slope 0.5 both agree. Seen:
#   slope 0.0: nibabel -50, SimpleITK -1074
#   slope nan: nibabel -50, SimpleITK -1074
#   slope 0.5: nibabel -1049, SimpleITK -1049
#
# What follows for whoever reads CT from NIfTI: apply the scaling by the header's own rule, and check the range of HU.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/read.py" <<'PYTHON'
import struct
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

SLOPE = 112  # where the two floats of the scaling stand in a NIfTI-1 header; scl_inter follows
path = Path(sys.argv[1])
volume = np.arange(-50, 70, dtype=np.int16).reshape(4, 5, 6)
nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
expected = {0.0: (-50, -1074), float("nan"): (-50, -1074), 0.5: (-1049, -1049)}
for slope, lowest in expected.items():
    header = bytearray(path.read_bytes())
    struct.pack_into("<2f", header, SLOPE, slope, -1024)
    path.write_bytes(header)
    by_nibabel = nibabel.load(path).get_fdata().min()
    by_simpleitk = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).min()
    print(f"slope {slope}: nibabel {by_nibabel:g}, SimpleITK {by_simpleitk:g}")
    if (by_nibabel, by_simpleitk) != lowest:
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder/volume.nii"
