#!/usr/bin/env bash
# CT in JPEG-LS whose header states a MAXVAL below 2^P - 1, where P is the bits of a sample: CharLS does not use it. Six
# of seven decoders then give wrong Hounsfield units without a word: imagecodecs 2026.3.6, pyjpegls 1.5.1, python-gdcm
# 3.2.6, SimpleITK 2.5.7, dicomsdl 0.109.4 and dcm2niix 1.0.20260724. pylibjpeg-libjpeg 2.5.0, which is not CharLS, is
# right.
#
# An encoder may state the highest value of an image as MAXVAL, in a segment of preset parameters (ITU-T T.87 C.2.4.1.1,
# table C.1). Few do. Errors of prediction are then coded modulo MAXVAL + 1 (A.4.5). DICOM does not limit these
# parameters (PS3.5 8.2.3). CharLS computes modulo 2^P, so a value that was reached by a wrap is off by 2^P - 1 -
# MAXVAL. Signed CT wraps between air and tissue, because -1 is coded as 65535. With a MAXVAL further down, contexts
# start otherwise too (A.2.1), and CharLS reports damage. If another MAXVAL is written into the same header, CharLS
# gives the same pixels, so it does not use it. Seen, for a disc of tissue in air (signed 16 bits, 64 x 64 pixels):
#   MAXVAL 65535: all seven are right
#   MAXVAL 65520: 2531 pixels are too high by 15 HU in the six, pylibjpeg-libjpeg is right
#   MAXVAL 65504: 2531 pixels are too high by 31 HU in the six, pylibjpeg-libjpeg is right
#   MAXVAL 65000: the six fail, pylibjpeg-libjpeg is right
#
# What follows for whoever reads CT: look for the segment (FF F8, type 1), and decode the slice with another library if
# its MAXVAL is neither 0 nor 2^P - 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --quiet --disable-pip-version-check install pydicom==3.0.2 pylibjpeg==2.1.0 \
    pylibjpeg-libjpeg==2.5.0 pyjpegls==1.5.1 python-gdcm==3.2.6 SimpleITK==2.5.7 dicomsdl==0.109.4 \
    dcm2niix==1.0.20260724 imagecodecs==2026.3.6 nibabel==5.4.2 numpy==2.4.6

cat >"$folder/encoder.py" <<'PYTHON'
"""A JPEG-LS encoder for one component without loss, as in ITU-T T.87 annex A, with any MAXVAL."""

import numpy as np

THRESHOLDS, RESET = (18, 67, 276), 64  # the defaults for 16 bits
RUN_CODES = (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, *range(8, 16))


class Encoder:
    def __init__(self, bits, maxval):
        self.bits, self.maxval, self.range = bits, maxval, maxval + 1
        self.long = (self.range - 1).bit_length()  # qbpp
        size = max(2, maxval.bit_length())
        self.limit = 2 * (size + max(8, size))
        start = max(2, (self.range + 32) // 64)
        self.magnitude, self.count = [start] * 367, [1] * 367  # A and N; the last two are those of run interruptions
        self.bias, self.correction, self.negative = [0] * 365, [0] * 365, [0, 0]
        self.run, self.code = 0, []

    def put(self, number, length):
        if length:
            self.code.append(f"{number:0{length}b}")

    def golomb(self, number, k, limit):
        high = number >> k
        if high < limit - self.long - 1:
            self.put(1, high + 1)
            self.put(number & ((1 << k) - 1), k)
        else:
            self.put(1, limit - self.long)
            self.put(number - 1, self.long)

    def modulo(self, error):
        error += self.range if error < 0 else 0
        return error - self.range if error >= (self.range + 1) // 2 else error

    def regular(self, value, left, above, corner, gradients):
        parts = [int(np.sign(g)) * sum(abs(g) >= edge for edge in (1, *THRESHOLDS)) for g in gradients]
        sign = -1 if next((part for part in parts if part), 0) < 0 else 1
        q = sign * (81 * parts[0] + 9 * parts[1] + parts[2])
        low, high = min(left, above), max(left, above)
        guess = low if corner >= high else high if corner <= low else left + above - corner
        guess = min(max(guess + sign * self.correction[q], 0), self.maxval)
        error = self.modulo(sign * (value - guess))
        k = next(k for k in range(32) if self.count[q] << k >= self.magnitude[q])
        if k == 0 and 2 * self.bias[q] <= -self.count[q]:
            self.golomb(2 * error + 1 if error >= 0 else -2 * (error + 1), k, self.limit)
        else:
            self.golomb(2 * error if error >= 0 else -2 * error - 1, k, self.limit)
        self.bias[q] += error
        self.magnitude[q] += abs(error)
        if self.count[q] == RESET:
            for numbers in (self.magnitude, self.bias, self.count):
                numbers[q] >>= 1
        self.count[q] += 1
        if self.bias[q] <= -self.count[q]:
            self.bias[q] = max(self.bias[q] + self.count[q], 1 - self.count[q])
            self.correction[q] = max(self.correction[q] - 1, -128)
        elif self.bias[q] > 0:
            self.bias[q] = min(self.bias[q] - self.count[q], 0)
            self.correction[q] = min(self.correction[q] + 1, 127)

    def run_of(self, length, is_to_the_end):
        while length >= 1 << RUN_CODES[self.run]:
            self.put(1, 1)
            length -= 1 << RUN_CODES[self.run]
            self.run = min(31, self.run + 1)
        if is_to_the_end:
            self.put(1, 1 if length else 0)
        else:
            self.put(0, 1)
            self.put(length, RUN_CODES[self.run])

    def interruption(self, value, left, above):
        kind = int(left == above)
        error = self.modulo((value - left) if kind else (value - above) * (-1 if left > above else 1))
        q = 365 + kind
        total = self.magnitude[q] + (self.count[q] >> 1 if kind else 0)
        k = next(k for k in range(32) if self.count[q] << k >= total)
        is_mostly_negative = 2 * self.negative[kind] >= self.count[q]
        mapped = (k == 0 and error > 0 and not is_mostly_negative) or (error < 0 and (is_mostly_negative or k != 0))
        code = 2 * abs(error) - kind - mapped
        self.golomb(code, k, self.limit - RUN_CODES[self.run] - 1)
        self.negative[kind] += error < 0
        self.magnitude[q] += (code + 1 - kind) >> 1
        if self.count[q] == RESET:
            self.magnitude[q] >>= 1
            self.count[q] >>= 1
            self.negative[kind] >>= 1
        self.count[q] += 1
        self.run = max(0, self.run - 1)

    def lines(self, values):
        before = [0] * (len(values[0]) + 2)
        for line in values:
            now, at = [before[1], *map(int, line)], 1
            before[-1] = before[-2]
            while at < len(now):
                left, above, corner, further = now[at - 1], before[at], before[at - 1], before[at + 1]
                gradients = further - above, above - corner, corner - left
                if any(gradients):
                    self.regular(now[at], left, above, corner, gradients)
                else:
                    end = next((place for place in range(at, len(now)) if now[place] != left), len(now))
                    self.run_of(end - at, end == len(now))
                    at = end
                    if at < len(now):
                        self.interruption(now[at], left, before[at])
                at += 1
            before = [*now, 0]

    def packed(self):
        """Return the code as bytes. After a byte of 255 comes a bit of 0."""
        code, at, data = "".join(self.code), 0, bytearray()
        while at < len(code):
            length = 7 if data and data[-1] == 0xFF else 8
            data.append(int(code[at : at + length].ljust(length, "0"), 2))
            at += length
        return bytes(data) + (b"\0" if data[-1] == 0xFF else b"")


def encode(values, bits, maxval):
    encoder = Encoder(bits, maxval)
    encoder.lines(values)
    two = lambda *numbers: b"".join(int(number).to_bytes(2, "big") for number in numbers)
    frame = b"\xff\xf7" + two(11) + bytes([bits]) + two(*values.shape) + bytes([1, 1, 0x11, 0])
    parameters = b"\xff\xf8" + two(13) + b"\1" + two(maxval, *THRESHOLDS, RESET)
    scan = b"\xff\xda" + two(8) + bytes([1, 1, 0, 0, 0, 0])
    return b"\xff\xd8" + frame + parameters + scan + encoder.packed() + b"\xff\xd9"
PYTHON

cat >"$folder/read.py" <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import dicomsdl
import imagecodecs
import nibabel
import numpy as np
import SimpleITK
from encoder import encode
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, JPEGLSLossless, generate_uid

SIDE = 64


def disc():
    """Return int64[SIDE, SIDE] in HU: a disc of 40 HU in air of -970 HU, with noise of at most 30 HU."""
    row, column = np.mgrid[:SIDE, :SIDE]
    inside = (row - SIDE // 2) ** 2 + (column - SIDE // 2) ** 2 < 500
    return np.where(inside, 40, -970) + np.random.default_rng(0).integers(-30, 31, (SIDE, SIDE))


def write(path, coded):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = JPEGLSLossless
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    data.PatientID, data.PatientName, data.StudyID, data.AccessionNumber = "1", "", "", ""
    data.PatientBirthDate, data.PatientSex, data.StudyDate, data.StudyTime = "", "", "", ""
    data.ReferringPhysicianName, data.PositionReferenceIndicator, data.SeriesNumber = "", "", 1
    data.Modality, data.InstanceNumber, data.ImageType = "CT", 1, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.Manufacturer, data.KVP, data.AcquisitionNumber = "none", 120, 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness, data.Rows, data.Columns = [1, 1], 1, SIDE, SIDE
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
    data.RescaleSlope, data.RescaleIntercept, data.RescaleType = 1, 0, "HU"
    data.PixelData = encapsulate([coded])
    data["PixelData"].VR = "OB"
    data.save_as(path, enforce_file_format=True)


def by_pydicom(plugin):
    def read(path):
        data = dcmread(path)
        data.pixel_array_options(decoding_plugin=plugin)
        return data.pixel_array

    return read


def by_dcm2niix(path):
    out = path.parent / "nifti"
    out.mkdir()
    command = [Path(sys.executable).with_name("dcm2niix"), "-b", "n", "-f", "out", "-o", out, path.parent]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = out.glob("*.nii")
    return nibabel.load(file).get_fdata().reshape(SIDE, SIDE)[:, ::-1].T  # NIfTI counts rows from the back to the front


CHARLS = {
    "pyjpegls": by_pydicom("pyjpegls"),
    "gdcm": by_pydicom("gdcm"),
    "SimpleITK": lambda path: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0],
    "dicomsdl": lambda path: dicomsdl.open(str(path)).pixelData(),
    "dcm2niix": by_dcm2niix,
}


def seen_by(reader, source, hu):
    try:
        error = np.asarray(reader(source), np.int64) - hu
    except Exception:
        return "an error"
    return f"{(error != 0).sum()} wrong, by {error.max()}" if error.any() else "right"


hu = disc()
stored = hu.astype(np.int16).view(np.uint16).astype(np.int64)
has_changed = False
EXPECTED = {65535: "right", 65520: "2531 wrong, by 15", 65504: "2531 wrong, by 31", 65000: "an error"}
for maxval, expected in EXPECTED.items():
    folder = Path(sys.argv[1]) / str(maxval)
    folder.mkdir()
    coded = encode(stored, 16, maxval)
    assert stored.max() <= maxval
    write(folder / "slice.dcm", coded)
    found = {name: seen_by(reader, folder / "slice.dcm", hu) for name, reader in CHARLS.items()}
    found["imagecodecs"] = seen_by(lambda code: imagecodecs.jpegls_decode(code).view(np.int16), coded, hu)
    right = seen_by(by_pydicom("pylibjpeg"), folder / "slice.dcm", hu)
    print(f"MAXVAL {maxval}: pylibjpeg-libjpeg: {right};", ", ".join(f"{name}: {text}" for name, text in found.items()))
    has_changed |= right != "right" or set(found.values()) != {expected}
    if expected.startswith("2531"):
        other = coded.replace(b"\xff\xf8\0\x0d\1" + maxval.to_bytes(2, "big"), b"\xff\xf8\0\x0d\1\xff\xff")
        has_changed |= not np.array_equal(imagecodecs.jpegls_decode(other), imagecodecs.jpegls_decode(coded))
sys.exit("changed" if has_changed else 0)
PYTHON

"$folder/venv/bin/python" "$folder/read.py" "$folder" 2>/dev/null
