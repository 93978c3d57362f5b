#!/usr/bin/env bash
# A numpy array in big-endian order, as nibabel 5.4.2 and pydicom 3.0.2 give it: ONNX Runtime 1.32.0, OpenCV 5.0.0 and
# the JPEG 2000 and TIFF encoders of imagecodecs 2026.3.6 read its bytes in the other order, without a word.
# OpenVINO 2026.4.1 does so in `openvino.Tensor`, and takes the same array correctly where a network is called with it.
#
# NIfTI-1 allows both orders (readers tell them apart by the header's dim[0] or sizeof_hdr), and Explicit VR Big Endian is
# a transfer syntax of older DICOM archives (now retired, PS3.5 A.3). Both readers hand stored values on in the file's
# order, as '>i2'. numpy computes with this type correctly. `get_fdata` and `apply_rescale` give native floats, so only
# code that takes the stored values is hit. -1000 (0xFC18) turns into 6396 (0x18FC). SimpleITK 2.5.7 refuses such an
# array, and safetensors 0.8.0 writes it correctly. `openvino.Tensor` is right for an array that is not C-contiguous,
# because it copies it first: whether slices were transposed hides the fault or brings it. Seen, for a slice of -1000:
#   onnxruntime, run: 6396          opencv, flip: 6396              imagecodecs, JPEG 2000: 6396
#   openvino, Tensor: 6396          openvino, call: -1000           imagecodecs, TIFF: 6396
#   SimpleITK, GetImageFromArray: TypeError                         safetensors: -1000
#
# What follows for whoever passes stored values on: convert them first, `array.astype(array.dtype.newbyteorder("="))`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install nibabel==5.4.2 pydicom==3.0.2 SimpleITK==2.5.7 \
    onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 opencv-python-headless==5.0.0.93 imagecodecs==2026.3.6 \
    safetensors==0.8.0 numpy==2.4.6

cat >"$folder/pass.py" <<'PYTHON'
import sys

import cv2
import imagecodecs
import nibabel
import numpy as np
import onnx
import onnxruntime
import openvino
import safetensors.numpy
import SimpleITK
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian

AIR = -1000

header = nibabel.Nifti1Header(endianness=">")
header.set_data_dtype(">i2")
nibabel.save(nibabel.Nifti1Image(np.full((8, 8, 1), AIR, np.int16), np.eye(4), header), sys.argv[1])
assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(sys.argv[1])).flat[0] == AIR
image = nibabel.load(sys.argv[1])
assert image.get_fdata().flat[0] == AIR
stored = np.asanyarray(image.dataobj)[:, :, 0].T  # rows first
assert stored.dtype == ">i2" and stored.flags.c_contiguous and stored.flat[0] == AIR

slice_ = Dataset()
slice_.file_meta = FileMetaDataset()
slice_.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
slice_.Rows = slice_.Columns = 8
slice_.BitsAllocated = slice_.BitsStored = 16
slice_.HighBit, slice_.PixelRepresentation, slice_.SamplesPerPixel = 15, 1, 1
slice_.PhotometricInterpretation = "MONOCHROME2"
slice_.PixelData = stored.tobytes()
assert slice_.pixel_array.dtype == ">i2" and slice_.pixel_array.flat[0] == AIR

info = onnx.helper.make_tensor_value_info
cast = onnx.helper.make_node("Cast", ["pixels"], ["hu"], to=onnx.TensorProto.FLOAT)
given, result = info("pixels", onnx.TensorProto.INT16, [8, 8]), info("hu", onnx.TensorProto.FLOAT, [8, 8])
graph = onnx.helper.make_graph([cast], "network", [given], [result])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model)
session = onnxruntime.InferenceSession(model.SerializeToString())
core = openvino.Core()
network = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

SWAPPED = 6396
uses = {
    "onnxruntime, run": (lambda array: session.run(None, {"pixels": array})[0], SWAPPED),
    "openvino, call": (lambda array: network(array)[0], AIR),
    "openvino, Tensor": (lambda array: network(openvino.Tensor(array))[0], SWAPPED),
    "openvino, Tensor of columns": (lambda array: network(openvino.Tensor(np.asfortranarray(array)))[0], AIR),
    "opencv, flip": (lambda array: cv2.flip(array, 0), SWAPPED),
    "imagecodecs, JPEG 2000": (lambda array: imagecodecs.jpeg2k_decode(imagecodecs.jpeg2k_encode(array)), SWAPPED),
    "imagecodecs, TIFF": (lambda array: imagecodecs.tiff_decode(imagecodecs.tiff_encode(array)), SWAPPED),
    "SimpleITK, GetImageFromArray": (SimpleITK.GetImageFromArray, "TypeError"),
    "safetensors": (lambda array: safetensors.numpy.load(safetensors.numpy.save({"": array}))[""], AIR),
}
for name, (use, expected) in uses.items():
    assert name.startswith("SimpleITK") or np.all(use(stored.astype(np.int16)) == AIR), name
    try:
        seen = int(use(stored).flat[0])
    except TypeError:
        seen = "TypeError"
    print(f"{name}: {seen}")
    if seen != expected:
        sys.exit("changed")
PYTHON

"$folder/venv/bin/python" "$folder/pass.py" "$folder/volume.nii" 2>/dev/null
