"""The names of series: those of two patients differ."""

import pytest

from worker.imaging.recipe import SeriesInfo
from worker.jobs.batches import _series_label


def series(number: int | None, description: str = "") -> SeriesInfo:
    return SeriesInfo(
        patient="",
        study_uid="1.2",
        series_uid="1.2.840.113619.2.55",
        series_number=number,
        description=description,
        instance_number=1,
        sop_uid="1.2.3",
        position=None,
    )


@pytest.mark.parametrize(
    ("info", "folder", "label"),
    [
        (None, "patient 1/ct", "patient 1/ct"),
        (None, "", "(no folder)"),
        (series(1), "patient 1", "patient 1: series 1"),
        (series(2, "Thorax"), "patient 2", "patient 2: series 2 Thorax"),
        (series(2, "Thorax"), "", "series 2 Thorax"),
        (series(None), "", "series ….113619.2.55"),
    ],
)
def test_name_of_a_series(info: SeriesInfo | None, folder: str, label: str) -> None:
    assert _series_label(info, folder) == label
