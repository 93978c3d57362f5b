#!/usr/bin/env bash
# ngff-zarr 0.50.0: in an OME-Zarr of a volume whose axes do not all run to the left, back and head, the coarse levels
# lie beside the full one. In an axial volume, such an axis is off by 1, 3 and 7 voxels of the full level, at a half, a
# quarter and an eighth of its resolution. Nothing is said. The full level is right.
#
# A coarse voxel covers several fine ones, so its centre is half of the difference further along the axis. ngff-zarr
# adds this to the translation. But it takes the translation from the origin of ITK, which counts mm to the left, back
# and head, whatever the direction of the axis is. So along an axis to the right, front or feet, the step has the wrong
# sign. Along an axis of a coronal volume it is also added to the wrong coordinate, with the voxel size of another axis.
# The specification of OME-NGFF (`multiscales`) lets the transformations of all levels lead to the same physical space.
# docs/rfc4.md and docs/itk.md ("preserves spatial metadata") name no such limit. NIfTI volumes in the common order of
# MNI and nibabel's `as_closest_canonical` (RAS) have two such axes, and those of dcm2niix have one. Axial DICOM has
# none. Below, each voxel holds its own place in mm. Seen: what `ngff_image_to_itk_image` and, by the command line,
# SimpleITK 2.5.7 state for the place of a voxel, minus what it holds. SimpleITK's BinShrink of the same volume is
# right at each level. Voxels are 0.75 x 0.75 x 1.5 mm:
#   to the left, back, head (axial DICOM): 0 0 0 mm at each level
#   to the right, front, head (RAS):       0 0 0; 0.75 0.75 0; 2.25 2.25 0; 5.25 5.25 0
#   to the left, front, head (dcm2niix):   0 0 0; 0 0.75 0; 0 2.25 0; 0 5.25 0
#   to the left, feet, back (coronal):     0 0 0; 0 -0.375 1.125; 0 -1.125 3.375; 0 -2.625 7.875
#
# What follows for whoever shows, segments or registers at a coarse level and goes on at the full one: bring the volume
# to left, back, head first (`SimpleITK.DICOMOrient(image, "LPS")`), or take places from the full level only.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install ngff-zarr==0.50.0 itkwasm-image-io==1.6.1 \
    itkwasm-downsample==2.0.2 itk-io==5.4.7 SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/levels.py" <<'PYTHON'
import subprocess
import sys
import warnings
from pathlib import Path

import ngff_zarr
import numpy as np
import SimpleITK
from itkwasm_image_io import imread

SHAPE, SPACING, ORIGIN, FACTORS = (64, 64, 64), (0.75, 0.75, 1.5), (-100, -200, -300), (2, 4, 8)
VOLUMES = {  # the direction of the axes by columns, and the error of each level in mm to the left, back and head
    "left, back, head": ((1, 0, 0, 0, 1, 0, 0, 0, 1), [[0, 0, 0]] * 4),
    "right, front, head": (
        (-1, 0, 0, 0, -1, 0, 0, 0, 1),
        [[0, 0, 0], [0.75, 0.75, 0], [2.25, 2.25, 0], [5.25, 5.25, 0]],
    ),
    "left, front, head": ((1, 0, 0, 0, -1, 0, 0, 0, 1), [[0, 0, 0], [0, 0.75, 0], [0, 2.25, 0], [0, 5.25, 0]]),
    "left, feet, back": (
        (1, 0, 0, 0, 0, 1, 0, -1, 0),
        [[0, 0, 0], [0, -0.375, 1.125], [0, -1.125, 3.375], [0, -2.625, 7.875]],
    ),
}
folder = Path(sys.argv[1])
tool = Path(sys.executable).with_name("ngff-zarr")
warnings.simplefilter("error", UserWarning)
faults = []


def middle(image: SimpleITK.Image) -> list[int]:
    return [size // 2 for size in image.GetSize()]


for name, (direction, expected) in VOLUMES.items():
    place = SimpleITK.PhysicalPointSource(SimpleITK.sitkVectorFloat32, SHAPE, ORIGIN, SPACING, direction)
    errors = np.zeros((4, 3))
    by_shrink = np.zeros((4, 3))
    for part in (0, 2, 1):
        volume = SimpleITK.VectorIndexSelectionCast(place, part)
        SimpleITK.WriteImage(volume, str(folder / "place.nrrd"))
        image = ngff_zarr.itk_image_to_ngff_image(imread(folder / "place.nrrd"))
        store = str(folder / f"place-{part}.ome.zarr")
        ngff_zarr.to_ngff_zarr(store, ngff_zarr.to_multiscales(image, scale_factors=list(FACTORS)))
        for level, read in enumerate(ngff_zarr.from_ngff_zarr(store).images):
            coarse = ngff_zarr.ngff_image_to_itk_image(read)
            index = np.array(coarse.size) // 2
            stated = np.array(coarse.origin) + np.reshape(coarse.direction, (3, 3)) @ (coarse.spacing * index)
            errors[level, part] = stated[part] - np.asarray(coarse.data)[tuple(index[::-1])]
            # control: the same volume in ITK
            shrunk = SimpleITK.BinShrink(volume, [(1, *FACTORS)[level]] * 3)
            held = shrunk[middle(shrunk)]
            by_shrink[level, part] = shrunk.TransformIndexToPhysicalPoint(middle(shrunk))[part] - held
    print(f"{name}: {'; '.join(' '.join(f'{round(x, 3) + 0:g}' for x in level) for level in errors)}")
    if not np.allclose(errors, expected, atol=1e-3):
        faults.append(f"{name}: levels")
    if not np.allclose(by_shrink, 0, atol=1e-3):
        faults.append(f"{name}: control")
    # the same by the command line, at a quarter, along the last part
    for source, target, *options in (
        ("place.nrrd", "cli.ome.zarr", "--chunks", "8"),
        ("cli.ome.zarr", "cli.nrrd", "--output-scale", "2"),
    ):
        command = [tool, "--quiet", "-i", folder / source, "-o", folder / target, *options]
        subprocess.run(command, check=True, capture_output=True)
    coarse = SimpleITK.ReadImage(str(folder / "cli.nrrd"))
    index = middle(coarse)
    error = coarse.TransformIndexToPhysicalPoint(index)[1] - coarse[index]
    print(f"{name}, by the command line, to the back, at a quarter: {round(error, 3) + 0:g}")
    if coarse.GetSize() != (16, 16, 16) or not np.isclose(error, expected[2][1], atol=1e-3):
        faults.append(f"{name}: command line")
print(*faults, sep="\n")
sys.exit("changed" if faults else 0)
PYTHON

"$folder/venv/bin/python" "$folder/levels.py" "$folder"
