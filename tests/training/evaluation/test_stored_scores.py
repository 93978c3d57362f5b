"""The file of an evaluation's scores keeps logits, and distances if the network has them."""

from pathlib import Path

import numpy as np
import pytest

from training.evaluation.stored_scores import are_ood, pack, unpack
from worker.engines.interface import Scores

LOGIT, DISTANCE = np.array([0.5, -2.0, 3.25], np.float32), np.array([1.0, 9.0, 4.0], np.float32)


@pytest.mark.parametrize("distance", [None, DISTANCE], ids=["without distances", "with distances"])
def test_scores_are_read_as_they_were_written(tmp_path: Path, distance: np.ndarray | None) -> None:
    (tmp_path / "scores.npy").write_bytes(pack(Scores(LOGIT, np.zeros((3, 7, 7), np.float32), distance)))
    logit, read = unpack(tmp_path / "scores.npy")
    assert np.array_equal(logit, LOGIT)
    assert (read is None) == (distance is None)
    assert read is None or np.array_equal(read, DISTANCE)


def test_slices_beyond_the_limit_are_out_of_distribution() -> None:
    assert are_ood(DISTANCE, 4.0) is not None
    assert list(are_ood(DISTANCE, 4.0)) == [False, True, False]
    assert are_ood(DISTANCE, None) is None
    assert are_ood(None, 4.0) is None
