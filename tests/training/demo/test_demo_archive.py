"""The demo archive holds exactly what it says."""

from collections import Counter
from pathlib import Path

import pytest

from training.demo.archive import SERIES, SLICES_A_SERIES, write_demo_archive
from worker.imaging.archives.archive import Limits, inspect_archive, read_entries
from worker.imaging.formats.decode import DecodeLimits, decode
from worker.imaging.rejections import SliceRejected


@pytest.mark.slow
def test_demo_archive(tmp_path: Path) -> None:
    path = tmp_path / "demo.zip"
    write_demo_archive(path, seed=7)
    readable = len(SERIES) * SLICES_A_SERIES + 1
    assert inspect_archive(path, path.name, Limits()).entries == readable + 7
    found: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    series = set()
    for entry in read_entries(path, path.name, Limits()):
        content = entry.read()
        try:
            if isinstance(content, SliceRejected):
                raise content
            (slice_,) = decode(content, DecodeLimits())
        except SliceRejected as refusal:
            rejected[refusal.code] += 1
        else:
            found[slice_.format] += 1
            pixels[slice_.sha256_pixels] += 1
            series.add(slice_.series and slice_.series.series_uid)
    assert found == {"PNG": 81, "JPEG": 40, "DICOM": 120}
    assert rejected == dict.fromkeys(["truncated", "format", "empty", "not_ct", "nested", "pixels", "corrupt"], 1)
    assert sorted(pixels.values())[-2:] == [1, 2]  # one slice comes twice
    assert len(series) == 1 + sum(kind == "dcm" for kind, *_ in SERIES)
