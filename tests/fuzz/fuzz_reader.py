"""Fuzzes the reader of files with atheris: `make fuzz`.

Each input goes to a sandboxed decoder first. It must answer in time, with slices or with a reason code. What did not
kill the decoder is then decoded in this process too, where atheris sees which code it reaches, and must give the same.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["worker.imaging", "pydicom"]):
    from worker.imaging.formats.decode import DecodeLimits, decode

import imagecodecs
import numpy as np
from PIL import Image

from db.reasons import OF_FILES
from tests.worker.imaging.builders import ct_dataset, dataset_bytes, dicom, grey, image
from tests.worker.imaging.formats.test_dicom_pixels import LOSSLESS, compressed, enhanced
from worker.imaging.recipe import PreparedSlice
from worker.imaging.rejections import SliceRejected
from worker.imaging.sandbox.pool import DecoderPool

LIMITS = DecodeLimits(max_pixels=250_000, max_pages=64, cpu_seconds=5, wall_seconds=30)
BY_THE_SANDBOX = ("decoder_crash", "decoder_timeout", "decoder_memory")
killed: dict[str, int] = {}


def seeds() -> dict[str, bytes]:
    """Small files of every kind that is read."""
    stored = grey(24, 16).astype(np.int16) * 8
    files = {
        "explicit": dicom(stored),
        "implicit": dicom(stored, implicit=True),
        "bare": dataset_bytes(ct_dataset(stored)),
        "nested": dicom(stored, SpecificCharacterSet="ISO_IR 100", PixelPaddingValue=-2000, BitsStored=12, HighBit=11),
        "enhanced": dataset_bytes(enhanced([stored, stored], [-1000, -500], [1.0, 2.0])),
        "nifti": nifti(),
        "png": image("PNG", Image.fromarray(grey(24, 16))),
        "png16": image("PNG", Image.fromarray(stored.view(np.uint16))),
        "jpeg": image("JPEG", Image.fromarray(grey(24, 16))),
        "tiff": image("TIFF", Image.fromarray(grey(24, 16)), compression="tiff_lzw"),
        "bmp": image("BMP", Image.fromarray(grey(24, 16))),
    }
    for syntax, encode in LOSSLESS.items():
        files[syntax] = compressed([encode(stored)], ct_dataset(stored), syntax)
    lossy = imagecodecs.jpeg8_encode(grey(24, 16), level=90)
    files["baseline"] = compressed([lossy], ct_dataset(grey(24, 16)), "1.2.840.10008.1.2.4.50")
    return files


def nifti() -> bytes:
    """A volume of two slices."""
    header = np.zeros(352, np.uint8)
    for at, value in (
        (0, np.int32(348)),
        (40, np.array([3, 8, 6, 2, 1, 1, 1, 1], np.int16)),
        (70, np.array([4, 16], np.int16)),
        (76, np.ones(8, np.float32)),
        (108, np.float32(352)),
        (112, np.float32(1)),
        (254, np.int16(1)),
        (280, np.array([-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], np.float32)),
        (344, np.frombuffer(b"n+1\0", np.uint8)),
    ):
        raw = np.atleast_1d(value).view(np.uint8)
        header[at : at + len(raw)] = raw
    return header.tobytes() + np.linspace(-1400, 200, 96).astype(np.int16).tobytes()


def described(result: list[PreparedSlice] | SliceRejected) -> object:
    """What an answer says, for comparison."""
    if isinstance(result, SliceRejected):
        return result.code
    return [(slice_.sha256_pixels, slice_.frame, slice_.notes, slice_.series) for slice_ in result]


def main() -> None:
    """Run until libFuzzer ends; its options are those of the command line."""
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (corpus / name).write_bytes(data)

    with DecoderPool(1, LIMITS) as pool:

        def once(data: bytes) -> None:
            ((_, confined),) = pool.map([(0, data)])
            if isinstance(confined, SliceRejected):
                assert confined.code in OF_FILES
                if confined.code in BY_THE_SANDBOX:
                    killed[confined.code] = killed.get(confined.code, 0) + 1
                    print(confined, killed, file=sys.stderr, flush=True)
                    (corpus.parent / f"{confined.code}-{killed[confined.code]}").write_bytes(data)
                    return
            here: list[PreparedSlice] | SliceRejected
            try:
                here = decode(data, LIMITS)
            except SliceRejected as rejection:
                here = rejection
            assert described(here) == described(confined), (described(here), described(confined))

        atheris.Setup(sys.argv, once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
