"""Metrics of a trained network, by source too, whatever classes a source has."""

from dataclasses import replace

import numpy as np

from db.datasets.slices import LabelledRow
from training.data.slices import Labelled


def labelled(modes):
    """A slice a mode, groups of two; those of RGBA are COVID."""
    rows = [
        LabelledRow(at, at, int(mode == "RGBA"), f"g{at // 2}", f"{at}.png", "PNG", mode, 32, 32, "")
        for at, mode in enumerate(modes)
    ]
    labels = np.array([row.label for row in rows], np.uint8)
    return Labelled(np.zeros((len(rows), 224, 224), np.uint8), labels, [row.group for row in rows], rows)


def test_source_named_by_the_csv_takes_precedence_over_the_kind_of_file():
    from training.export.package import measure_test
    from training.export.parity import Calibration
    from worker.engines.interface import Scores

    data = labelled(["RGB", "RGBA"] * 4)
    data.rows[:] = [replace(row, source="CT 2" if row.row < 6 else None) for row in data.rows]
    scores = Scores(np.ones(8, np.float32), np.zeros((8, 7, 7), np.float32), np.ones(8, np.float32))
    found = measure_test(data, scores, Calibration(1.0, 0.5, 2.0)).by_source
    assert {name: one.n for name, one in found.items()} == {"CT 2": 6, "not stated": 2}


def test_groups_are_measured_beside_slices():
    from training.export.package import measure_test
    from training.export.parity import Calibration
    from worker.engines.interface import Scores

    data = labelled(["RGB"] * 4 + ["RGBA"] * 4)
    data.pixels[:, 20:200, 20:200], data.pixels[:, 60:160, 60:160] = 220, 40  # a body with air inside
    scores = Scores(np.array([-2, 2, -2, -2, 2, -2, 2, 2], np.float32), np.zeros((8, 7, 7), np.float32), np.ones(8))
    found = measure_test(data, scores, Calibration(1.0, 0.6, 2.0))
    assert found.accuracy == 0.75
    assert found.by_group is not None
    assert (found.by_group.n, found.by_group.accuracy, found.by_group.recall) == (4, 0.75, 0.5)
    assert found.by_group.rule.name == "top-k-mean (k 10)"
    data.pixels[:] = 0
    without_lung = measure_test(data, scores, Calibration(1.0, 0.6, 2.0)).by_group
    assert without_lung is not None
    assert (without_lung.n, without_lung.left_out, without_lung.accuracy) == (0, 4, None)


def test_mistake_is_named_by_its_row_not_its_file():
    from training.export.package import worst_mistakes

    [found] = worst_mistakes(labelled(["RGBA", "RGB"]), np.array([0.1, 0.2]), np.zeros((2, 7, 7), np.float32), 0.5)
    assert (found.name, found.verdict) == ("slice 0", "COVID missed")


def test_source_of_one_class_is_measured_too():
    from training.export.package import measure_test
    from training.export.parity import Calibration
    from worker.engines.interface import Scores

    data = labelled(["RGB"] * 6 + ["RGBA"] * 4)
    logit = np.array([-2, -2, -2, -2, -2, 2, 2, 2, 2, -2], np.float32)
    scores = Scores(logit, np.zeros((10, 7, 7), np.float32), np.ones(10, np.float32))
    found = measure_test(data, scores, Calibration(1.0, 0.5, 2.0)).by_source
    assert {name: one.n for name, one in found.items()} == {"PNG RGB": 6, "PNG RGBA": 4}
    assert (found["PNG RGB"].specificity, found["PNG RGB"].recall, found["PNG RGB"].auc) == (5 / 6, None, None)
    assert (found["PNG RGBA"].recall, found["PNG RGBA"].specificity) == (0.75, None)
