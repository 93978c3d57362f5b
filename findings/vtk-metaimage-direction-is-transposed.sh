#!/usr/bin/env bash
# MetaImage (.mha, .mhd) in VTK 9.7.2 (also pyvista 0.49.1): the directions of the axes are read and written transposed.
# A volume that is not axial is turned the wrong way, and nothing is said. VTK 9.6.2 ignores the directions.
#
# The header's TransformMatrix lists the axes one after the other: its first three numbers are the direction of the
# first axis. VTK keeps an axis in each column of its direction matrix, as SimpleITK does, but copies the numbers row by
# row. AnatomicalOrientation in the same header states the side where each axis begins, and VTK's matrix contradicts it.
# A matrix that equals its transpose is right: axial volumes, mirrored or not. So the usual test files do not show it. A
# rotation is inverted: an oblique volume leans the other way, and the last slice of a coronal one lies on the other
# side. What VTK writes it reads back itself, but SimpleITK 2.5.7 then reads the inverse. The documentation of the two
# classes does not mention directions. Seen, for files of SimpleITK: the place of the last slice in mm (left, back,
# head) and the sides where the axes begin. nibabel 5.4.2 agrees with SimpleITK on the same volumes in NIfTI.
#   axial:                 SimpleITK 10 20 148.5, RAI;    VTK the same
#   axial, 20 degrees off: SimpleITK 10 -20.5 141.4, RAI; VTK 10 60.5 141.4, RAI
#   coronal:               SimpleITK 10 138.5 30, RSA;    VTK 10 -98.5 30, RIP
#   sagittal:              SimpleITK 128.5 20 30, ASR;    VTK 10 -98.5 30, IRP
#
# What follows for whoever shows or measures such volumes: compare the place of the last voxel with a second reader.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
python3 -m venv "$folder/before"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install vtk==9.7.2 pyvista==0.49.1 SimpleITK==2.5.7 \
    nibabel==5.4.2 numpy==2.4.6
"$folder/before/bin/pip" --quiet --disable-pip-version-check install vtk==9.6.2

cat >"$folder/before.py" <<'PYTHON'
import sys

from vtkmodules.vtkIOImage import vtkMetaImageReader

reader = vtkMetaImageReader()
reader.SetFileName(sys.argv[1])
reader.Update()
matrix = reader.GetOutput().GetDirectionMatrix()
print("VTK 9.6.2 ignores the matrix:", matrix.IsIdentity())
sys.exit(0 if matrix.IsIdentity() else "changed")
PYTHON

cat >"$folder/read.py" <<'PYTHON'
import math
import sys
from pathlib import Path

import nibabel
import numpy as np
import pyvista
import SimpleITK
from vtkmodules.vtkCommonDataModel import vtkImageData
from vtkmodules.vtkIOImage import vtkMetaImageReader, vtkMetaImageWriter

SIZE, SPACING, CORNER = (60, 70, 80), (0.7, 0.7, 1.5), (10, 20, 30)
LAST = (0, 0, SIZE[2] - 1)  # i, j, k of the first voxel of the last slice
SINE, COSINE = math.sin(math.radians(20)), math.cos(math.radians(20))
# each column is an axis of the array in mm to the left, back and head; each letter is the side where an axis begins
DIRECTIONS = {
    "axial": ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], "RAI"),
    "axial, face down": ([[-1, 0, 0], [0, -1, 0], [0, 0, 1]], "LPI"),
    "axial, 20 degrees off": ([[1, 0, 0], [0, COSINE, -SINE], [0, SINE, COSINE]], "RAI"),
    "coronal": ([[1, 0, 0], [0, 0, 1], [0, -1, 0]], "RSA"),
    "sagittal": ([[0, 0, 1], [1, 0, 0], [0, -1, 0]], "ASR"),
}
IN_VTK = {
    "axial": ("10 20 148.5", "RAI"),
    "axial, face down": ("10 20 148.5", "LPI"),
    "axial, 20 degrees off": ("10 60.5 141.4", "RAI"),
    "coronal": ("10 -98.5 30", "RIP"),
    "sagittal": ("10 -98.5 30", "IRP"),
}


def text(place):
    return " ".join(f"{round(number, 1) + 0.0:g}" for number in place)


def letters_of(direction):
    """Return the sides where the axes begin, by the largest part of each column."""
    columns = np.array(direction).T
    return "".join(("RL", "AP", "IS")[np.argmax(abs(column))][int(min(column) < -max(column))] for column in columns)


def place_in_vtk(image):
    place = [0.0, 0.0, 0.0]
    image.TransformIndexToPhysicalPoint(LAST, place)
    return place


def matrix_of_vtk(image):
    matrix = image.GetDirectionMatrix()
    return [[matrix.GetElement(row, column) for column in range(3)] for row in range(3)]


def read_by_vtk(path):
    reader = vtkMetaImageReader()
    reader.SetFileName(path)
    reader.Update()
    assert reader.GetErrorCode() == 0
    return reader.GetOutput(), reader.GetAnatomicalOrientation()


def write_by_vtk(path, direction):
    image = vtkImageData()
    image.SetDimensions(SIZE)
    image.SetSpacing(SPACING)
    image.SetOrigin(CORNER)
    image.SetDirectionMatrix(np.ravel(direction).tolist())
    image.AllocateScalars(4, 1)  # int16
    writer = vtkMetaImageWriter()
    writer.SetInputData(image)
    writer.SetFileName(path)
    writer.Write()
    return place_in_vtk(image)


def place_in_simpleitk(path):
    return SimpleITK.ReadImage(path).TransformIndexToPhysicalPoint(LAST)


def place_in_nibabel(path):
    return (nibabel.load(path).affine @ [*LAST, 1])[:3] * [-1, -1, 1]


has_changed = False
for number, (name, (direction, letters)) in enumerate(DIRECTIONS.items()):
    meta, nifti, by_vtk = (f"{sys.argv[1]}/{number}.{end}" for end in ("mha", "nii", "vtk.mha"))
    image = SimpleITK.Image(SIZE, SimpleITK.sitkInt16)
    image.SetSpacing(SPACING)
    image.SetOrigin(CORNER)
    image.SetDirection(np.ravel(direction).tolist())
    SimpleITK.WriteImage(image, meta)
    SimpleITK.WriteImage(image, nifti)
    right = np.array(CORNER) + np.array(direction) @ (np.array(LAST) * SPACING)
    assert letters == letters_of(direction)
    assert np.allclose(place_in_simpleitk(meta), right)
    assert np.allclose(place_in_nibabel(nifti), right, atol=1e-3)

    found, stated = read_by_vtk(meta)
    assert stated == letters  # the file itself says where each axis begins
    assert np.allclose(pyvista.read(meta).direction_matrix, matrix_of_vtk(found))
    seen = text(place_in_vtk(found)), letters_of(matrix_of_vtk(found))
    print(f"{name}: {text(right)}, {letters}; VTK {seen[0]}, {seen[1]}")
    has_changed |= seen != IN_VTK[name] or not np.allclose(matrix_of_vtk(found), np.transpose(direction))

    assert np.allclose(write_by_vtk(by_vtk, direction), right)
    has_changed |= text(place_in_simpleitk(by_vtk)) != IN_VTK[name][0]
sys.exit("changed" if has_changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder"
"$folder/before/bin/python" "$folder/before.py" "$folder/3.mha"
