#!/usr/bin/env bash
# ngff-zarr 0.50.0: a CT volume that goes from NIfTI to OME-Zarr and back has swapped axes, so that its axial slices are
# sagittal ones. Into OME-Zarr, it also loses the directions of its axes and moves by twice its distance from the
# origin. Exit codes are 0, nothing is said, and `ngff-zarr conformance` calls the OME-Zarr valid.
#
# There are three faults. (1) `-o volume.nii.gz` hands the array of an OME-Zarr (z, y, x) or NRRD to nibabel as if it
# were x, y, z, with scale and translation of x, y, z. Only a file that was read from NIfTI is not turned. (2) For .nii
# and .nii.gz, the input backend is nibabel by default. It copies the offset of the affine, which counts mm to the right
# and front, also for axes that it says run to the left or back. So the coordinate of the first voxel has the wrong
# sign: RFC-4 of OME-NGFF ("Coordinate Direction Convention") lets coordinates grow in the stated direction. (3) It
# writes the direction of an axis as a string. RFC-4 requires an object with a type ("MUST have a type field"), and
# ngff-zarr itself then reads no direction at all. The documentation of the tool promises that orientation is written
# for NIfTI (docs/rfc4.md) and does not name a limit. With `--input-backend itkwasm_image_io` the volume reaches NRRD
# unharmed. Seen, for a voxel of 400 HU: how many mm to the left, back and head of the origin it lies. In the NIfTI
# files, nibabel 5.4.2 and SimpleITK 2.5.7 agree on that place.
#   NIfTI, rows to the right and front:       112.5 111 -270, 40 x 48 x 32 voxels of 0.75 x 0.75 x 1.5 mm
#     to OME-Zarr, then NRRD:                -112.5 -111 -270
#     to OME-Zarr, then NIfTI:                 105 111 -285, 32 x 48 x 40 voxels of 0.75 x 0.75 x 1.5 mm
#   NIfTI, to the left and front (dcm2niix): -112.5 111 -270, 40 x 48 x 32
#     to OME-Zarr, then NRRD:                 127.5 -111 -270
#     to OME-Zarr, then NIfTI:               -135 111 -285, 32 x 48 x 40
#   NIfTI, to the left and back:             -112.5 -111 -270, 40 x 48 x 32
#     to OME-Zarr, then NRRD:                 127.5 129 -270
#     to OME-Zarr, then NIfTI:               -135 -129 -285, 32 x 48 x 40
#   NRRD, to the left and back:              -112.5 -111 -270, 40 x 48 x 32
#     to NIfTI at once:                       135 129 -285, 32 x 48 x 40
#   each of the three NIfTI files to OME-Zarr with `--input-backend itkwasm_image_io`, then NRRD: as in the NIfTI
#
# What follows for whoever receives NIfTI that passed through OME-Zarr: look at a slice before it is measured or
# classified, because the header of such a file contradicts nothing. Whoever converts: take that backend, and NRRD.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install ngff-zarr==0.50.0 itkwasm-image-io==1.6.1 \
    itkwasm-downsample==2.0.2 itk-io==5.4.7 nibabel==5.4.2 SimpleITK==2.5.7 numpy==2.4.6

cat >"$folder/convert.py" <<'PYTHON'
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

SHAPE, SPACING, VOXEL, AIR, DENSE = (40, 48, 32), (0.75, 0.75, 1.5), (10, 12, 20), -1000, 400
SWAPPED = (32, 48, 40)
TO_LPS = np.array([-1, -1, 1])
NAMES = {"x": "right-to-left left-to-right", "y": "anterior-to-posterior posterior-to-anterior"}
# signs of the affine's diagonal: the place of the voxel, what OME-Zarr and NRRD make of it, and what NIfTI does
EXPECTED = {
    (1, 1, 1): ([112.5, 111, -270], [-112.5, -111, -270], [105, 111, -285]),
    (-1, 1, 1): ([-112.5, 111, -270], [127.5, -111, -270], [-135, 111, -285]),
    (-1, -1, 1): ([-112.5, -111, -270], [127.5, 129, -270], [-135, -129, -285]),
}
folder = Path(sys.argv[1])
tool = Path(sys.executable).with_name("ngff-zarr")
faults = []


def check(what: str, holds: bool) -> None:
    if not holds:
        faults.append(what)


def convert(source: str, target: str, *options: str) -> None:
    shutil.rmtree(folder / target, ignore_errors=True)
    command = [tool, "--quiet", "-i", folder / source, "-o", folder / target, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    check(f"{target}: a warning", not (done.stdout + done.stderr).strip())


def place(name: str) -> tuple[tuple[int, ...], list[float]]:
    """Return the size, and the place of the dense voxel in mm to the left, back and head, by SimpleITK."""
    image = SimpleITK.ReadImage(str(folder / name))
    voxels = SimpleITK.GetArrayFromImage(image)
    check(f"{name}: voxels", (voxels == DENSE).sum() == 1 and (voxels == AIR).sum() == voxels.size - 1)
    check(f"{name}: spacing", np.allclose(image.GetSpacing(), SPACING))
    index = [int(number) for number in np.argwhere(voxels == DENSE)[0][::-1]]
    place = list(image.TransformIndexToPhysicalPoint(index))
    if name.endswith(".nii.gz"):
        read = nibabel.load(folder / name)
        stored = np.asarray(read.dataobj)
        same = (read.affine @ [*np.argwhere(stored == DENSE)[0], 1])[:3] * TO_LPS
        check(f"{name}: nibabel and SimpleITK", stored.shape == image.GetSize() and np.allclose(same, place))
    return image.GetSize(), place


def show(what: str, name: str, shape: tuple[int, ...], expected: list[float]) -> None:
    size, found = place(name)
    print(f"{what}: {' '.join(f'{number:g}' for number in found)}, {' x '.join(map(str, size))} voxels")
    check(what, size == shape and np.allclose(found, expected))


for signs, (true, by_nrrd, by_nifti) in EXPECTED.items():
    voxels = np.full(SHAPE, AIR, np.int16)
    voxels[VOXEL] = DENSE
    affine = np.diag([*np.multiply(signs, SPACING), 1])
    affine[:3, 3] = [-120 * signs[0], -120 * signs[1], -300]
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_qform(affine, "scanner")
    image.set_sform(affine, "scanner")
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "ct.nii.gz")
    codes = "".join(nibabel.aff2axcodes(affine))
    show(f"{codes}, NIfTI", "ct.nii.gz", SHAPE, true)

    convert("ct.nii.gz", "ct.ome.zarr")
    convert("ct.ome.zarr", "back.nrrd")
    show(f"{codes}, to OME-Zarr and NRRD", "back.nrrd", SHAPE, by_nrrd)
    convert("ct.ome.zarr", "back.nii.gz")
    show(f"{codes}, to OME-Zarr and NIfTI", "back.nii.gz", SWAPPED, by_nifti)

    # what the file itself states
    stated = json.loads((folder / "ct.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    axes = {axis["name"]: axis["orientation"] for axis in stated["axes"]}
    offsets = stated["datasets"][0]["coordinateTransformations"][1]["translation"]
    print(f"{codes}, axes {axes}, translation of z, y, x {offsets}")
    check("the direction of each axis is named", axes["z"] == "inferior-to-superior")
    for axis, sign in zip("xy", signs, strict=False):
        check("the direction of each axis is named", axes[axis] == NAMES[axis].split()[sign > 0])
    check("the translation is that of NIfTI", np.allclose(offsets, affine[:3, 3][::-1]))
    verdict = subprocess.run([tool, "conformance", folder / "ct.ome.zarr"], capture_output=True, text=True, check=True)
    verdict = json.loads(verdict.stdout)
    check("conformance", verdict["rfc4_valid"] and not verdict["violations"] and verdict["axes"] == {})

    # controls: the other backend, and NIfTI to NIfTI
    convert("ct.nii.gz", "ct.ome.zarr", "--input-backend", "itkwasm_image_io")
    convert("ct.ome.zarr", "back.nrrd")
    show(f"{codes}, to OME-Zarr by the other backend and NRRD", "back.nrrd", SHAPE, true)
    convert("ct.nii.gz", "again.nii.gz")
    show(f"{codes}, NIfTI to NIfTI", "again.nii.gz", SHAPE, true)

volume = SimpleITK.GetImageFromArray(voxels.transpose())
volume.SetSpacing(SPACING)
volume.SetOrigin((-120, -120, -300))
SimpleITK.WriteImage(volume, str(folder / "ct.nrrd"))
show("NRRD", "ct.nrrd", SHAPE, [-112.5, -111, -270])
convert("ct.nrrd", "back.nii.gz")
show("NRRD to NIfTI", "back.nii.gz", SWAPPED, [135, 129, -285])
print(*faults, sep="\n")
sys.exit("changed" if faults else 0)
PYTHON

"$folder/venv/bin/python" "$folder/convert.py" "$folder"
