"""The demo model is trained for real, and is as good on phantoms of unseen patients as it is said to be."""

from pathlib import Path

import pytest

from worker.engines.base import load_engine
from worker.engines.package import read_package


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_demo_model(tmp_path: Path) -> None:
    from training.demo import NOTE, make_demo_package
    from training.phantoms import labelled_slices

    told: list[float] = []
    package = make_demo_package(tmp_path, seed=7, progress=lambda fraction, message: told.append(fraction))
    assert told == sorted(told)
    assert package == read_package(tmp_path)
    assert package.note == NOTE
    assert package.metrics["accuracy"] >= 0.9
    fresh = labelled_slices(7, 30, 2, first_pair=5000)  # patients that the package's own figures do not know either
    probability = package.probability(load_engine(tmp_path, "openvino").predict(fresh.pixels).logit)
    assert ((probability >= package.threshold) == fresh.labels).mean() >= 0.85
