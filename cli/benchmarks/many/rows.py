"""Makes up slices (as from ingest), scores (as from an engine) and a model package. Nothing is computed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from db.ledger.predictions import PredictedSlice
from db.ledger.recording import ReadSlice
from db.models import Outcome
from worker.imaging.recipe import RECIPE

CHUNK = 128  # slices, the default of CTBATCH_CHUNK_SLICES
SERIES = 300  # slices in a series
CAM_BYTES = 98


def read_rows(start: int, count: int, salt: str = "") -> list[ReadSlice]:
    """Return `count` prepared slices of DICOM files, from the archive's entry `start` on. No two have the same pixels.

    The slices are rows 0 to `count` - 1 of their chunk's array. With another `salt`, the slices have other pixels.
    """
    return [_row(start + row, row, salt) for row in range(count)]


def _row(ordinal: int, array_row: int, salt: str) -> ReadSlice:
    series, number = divmod(ordinal, SERIES)
    return ReadSlice(
        ordinal=ordinal,
        frame=0,
        name=f"patient {series}/series 1/IM{number:05d}.dcm",
        state=Outcome.OPEN,
        sha256=_hash(f"file {salt}{ordinal}"),
        pixels_sha256=_hash(f"pixels {salt}{ordinal}"),
        format="DICOM",
        mode="I;16",
        width=512,
        height=512,
        array_row=array_row,
        patient=_hash(f"patient {series}"),
        study_uid=f"1.2.{series}",
        series_uid=f"1.2.{series}.1",
        series_label=f"patient {series}/series 1",
        instance_number=number + 1,
        position=float(number),
        orientation="1\\0\\0\\0\\1\\0",
        sop_uid=f"1.2.{series}.1.{number}",
    )


def scores(slice_ids: Iterable[int]) -> list[PredictedSlice]:
    """Return made-up scores of these slices. The scores differ from slice to slice, and about a third are positive."""
    return [_scores(id_) for id_ in slice_ids]


def _scores(slice_id: int) -> PredictedSlice:
    share, positive = slice_id % 997 / 1994, slice_id % 3 == 0
    cam = slice_id.to_bytes(CAM_BYTES, "big")
    return PredictedSlice(slice_id, 8 * share, 0.5 * positive + share, positive, cam, distance=1 + share, ood=False)


def write_package(folder: Path) -> Path:
    """Write a model package without a network, for the engine `fake`, and return its folder."""
    folder.mkdir(parents=True)
    manifest = {
        "name": "simulated",
        "note": "no network: a benchmark's scores",
        "recipe": RECIPE,
        "threshold": 0.5,
        "temperature": 1.0,
        "files": {},
        "metrics": {},
        "parity": {},
        "dataset_hash": None,
        "created_at": "2026-01-01T00:00:00+00:00",
        "extra": {},
    }
    (folder / "package.json").write_text(json.dumps(manifest))
    return folder


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
