"""The demo archive holds exactly what it says, and a DICOM file of it is the same at every making."""

from collections import Counter
from pathlib import Path

from training.anatomy import make_patient
from training.demo_archive import SERIES, SLICES_A_SERIES, ct_dicom, write_demo_archive
from training.phantoms import hounsfield
from worker.imaging.archive import Limits, inspect_archive, read_entries
from worker.imaging.decode import DecodeLimits, decode
from worker.imaging.errors import SliceRejected


def test_a_slice_is_the_same_at_every_making() -> None:
    hu = hounsfield(make_patient(7, 1, True), 0.5, 64)
    assert ct_dicom(hu, 7, 1, 2, 10.0) == ct_dicom(hounsfield(make_patient(7, 1, True), 0.5, 64), 7, 1, 2, 10.0)


def test_demo_archive(tmp_path: Path) -> None:
    path = tmp_path / "demo.zip"
    write_demo_archive(path, seed=7)
    readable = len(SERIES) * SLICES_A_SERIES + 1
    assert inspect_archive(path, path.name, Limits()).entries == readable + 8
    outcomes: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    series = set()
    for _, content in read_entries(path, path.name, Limits(), lambda _: False):
        try:
            if isinstance(content, SliceRejected):
                raise content
            (slice_,) = decode(content, DecodeLimits())
        except SliceRejected as rejected:
            outcomes[rejected.code] += 1
        else:
            outcomes[slice_.format] += 1
            pixels[slice_.sha256_pixels] += 1
            series.add(slice_.series and slice_.series.series_uid)
    assert {kind: outcomes[kind] for kind in ("PNG", "JPEG", "DICOM")} == {"PNG": 91, "JPEG": 60, "DICOM": 90}
    rejected = {code: n for code, n in outcomes.items() if code not in ("PNG", "JPEG", "DICOM")}
    assert sum(rejected.values()) == 8
    assert rejected.keys() >= {"truncated", "format", "empty", "not_ct", "nested", "pixels"}
    assert sorted(pixels.values())[-2:] == [1, 2]
    assert len(series) == 1 + 3
