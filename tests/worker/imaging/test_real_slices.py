"""Real CT slices, where the project's shared data lies beside it: published originals and their grey copies."""

import io
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.worker.imaging.builders import read_all
from worker.imaging.archives.archive import inspect_archive
from worker.imaging.archives.entries import Limits
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.sandbox.pool import DecoderPool

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"
SLICES = DATA / "sars-cov-2-ct"

pytestmark = pytest.mark.skipif(not SLICES.is_dir(), reason="the shared data set is not beside the project")


def test_every_original_is_read_and_decoded_with_its_alpha_dropped() -> None:
    archive = DATA / "originals.zip"
    entries = read_all(archive)
    assert inspect_archive(archive, "originals.zip", Limits()).entries == len(entries) == 40
    modes = set()
    for _, content in entries:
        assert isinstance(content, bytes)
        (slice_,) = decode(content, DecodeLimits())
        modes.add(slice_.mode)
        with Image.open(io.BytesIO(content)) as original:
            expected = original.convert("RGB").convert("L").resize((224, 224), Image.Resampling.BILINEAR)
        assert (slice_.pixels == np.asarray(expected)).all()
    assert modes <= {"RGB", "RGBA"}


def test_an_original_and_its_grey_copy_become_the_same_slice() -> None:
    copies = {path.name: path for path in SLICES.glob("*/*.png")}
    pairs = 0
    for entry, content in read_all(DATA / "originals.zip"):
        copy = copies.get(entry.name.rsplit("/", 1)[-1])
        if copy and isinstance(content, bytes):
            (original,), (grey,) = decode(content, DecodeLimits()), decode(copy.read_bytes(), DecodeLimits())
            assert original.sha256_pixels == grey.sha256_pixels
            pairs += 1
    assert pairs or not copies


@pytest.mark.slow
def test_the_sandbox_decodes_real_slices_bit_for_bit_as_this_process_does() -> None:
    paths = list(islice(sorted(SLICES.glob("*/*.png")), 200))
    with DecoderPool(2, DecodeLimits()) as pool:
        for path, result in pool.map((path, path.read_bytes()) for path in paths):
            (slice_,) = decode(path.read_bytes(), DecodeLimits())
            assert isinstance(result, list)
            assert result[0].sha256_pixels == slice_.sha256_pixels
