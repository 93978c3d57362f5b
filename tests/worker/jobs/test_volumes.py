"""Volumes and DICOM from the upload to the rows: series, order, positions and notes."""

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from sqlalchemy import select

from db.database import read_scope
from db.models import Series, Slice, User
from tests.worker.imaging.builders import dicom
from worker.imaging.archives.archive import Limits, read_entries
from worker.imaging.file_types import image_kind
from worker.jobs import ingest

pytestmark = pytest.mark.usefixtures("champion")


def nii(seed: int) -> bytes:
    """A volume of 3 axial slices, stored from the head to the feet."""
    voxels = np.random.default_rng(seed).integers(-1400, 300, (40, 30, 3)).astype(np.int16)
    return bytes(nibabel.Nifti1Image(voxels, np.diag([-1, 1, -2.5, 1])).to_bytes())


def test_each_volume_is_a_series_from_the_feet_to_the_head(ann: User, submit: Any) -> None:
    submit(ann, {"ct/one.nii.gz": gzip.compress(nii(1)), "ct/two.nii": nii(2), "ct/7.dcm": dicom(RescaleType=None)})
    while ingest.unpack_next("w"):
        pass
    with read_scope() as s:
        rows = s.execute(
            select(Series.label, Slice.format, Slice.frame, Slice.position, Slice.notes).join(
                Series, Series.id == Slice.series_id
            )
        ).all()
    assert sorted(map(tuple, rows)) == [
        ("ct/one.nii.gz", "NIfTI", 0, -5.0, []),
        ("ct/one.nii.gz", "NIfTI", 1, -2.5, []),
        ("ct/one.nii.gz", "NIfTI", 2, 0.0, []),
        ("ct/two.nii", "NIfTI", 0, -5.0, []),
        ("ct/two.nii", "NIfTI", 1, -2.5, []),
        ("ct/two.nii", "NIfTI", 2, 0.0, []),
        ("ct: series 7 Thorax 1.0 Lunge", "DICOM", 0, 55.5, ["no_rescale_type"]),
    ]


def test_loose_packed_volume_is_a_volume(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(nii(1)))
    (content,) = (entry.read() for entry in read_entries(tmp_path / "scan.nii.gz", "scan.nii.gz", Limits()))
    assert isinstance(content, bytes)
    assert image_kind(content) == "NIfTI"
