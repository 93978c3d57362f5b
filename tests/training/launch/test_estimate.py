"""The estimate of a run: whichever layers learn, and by the speed of the last run."""

import numpy as np
import pytest

from db.database import session_scope
from db.models import Epoch, TrainingRun
from db.settings import Settings
from training.config import ALL, PRESETS, Config, Stage
from training.launch.estimate import (
    FORWARD_SHARE,
    IMAGES_A_SECOND,
    NETWORK_BYTES,
    PACKAGE_SECONDS,
    STAGE_SECONDS,
    VALUE_BYTES,
    estimate,
)
from training.launch.measured_speed import measured_speed

SLICES = {"train": 100, "validation": 20, "test": 20}


def config(unfreeze: int) -> Config:
    """A run of one stage."""
    stage = Stage(name="late", unfreeze=unfreeze, epochs=10, copies=1)
    return PRESETS["seed"].model_copy(update={"stages": (stage,)})


@pytest.mark.parametrize("unfreeze", [41, 60, 100, 172])
def test_more_layers_than_measured_count_as_all(unfreeze: int) -> None:
    assert estimate(config(unfreeze), SLICES).seconds >= estimate(config(ALL), SLICES).seconds


def test_evaluation_and_package_are_part_of_the_estimate() -> None:
    without_test = estimate(config(0), SLICES | {"test": 0}).seconds
    with_test = estimate(config(0), SLICES | {"test": 900}).seconds
    assert with_test - without_test == pytest.approx(900 * FORWARD_SHARE / IMAGES_A_SECOND)
    assert without_test > STAGE_SECONDS + PACKAGE_SECONDS


@pytest.mark.parametrize(("speed", "fixed"), [(3.0, 3), (900.0, 1)])
def test_time_follows_from_the_measured_speed_but_a_gpu_does_not_export(speed: float, fixed: float) -> None:
    plain = estimate(config(ALL), SLICES)
    measured = estimate(config(ALL), SLICES, speed)
    others = STAGE_SECONDS + PACKAGE_SECONDS
    network = (plain.seconds - others) * IMAGES_A_SECOND / speed
    assert measured.seconds == pytest.approx(network + fixed * others)
    assert (plain.is_measured, measured.is_measured) == (False, True)
    assert measured.disk == plain.disk


def test_run_that_trained_only_its_head_measures_no_speed(settings: Settings) -> None:
    stages = PRESETS["seed"].model_dump(mode="json")["stages"][:2]  # the head, and 20 layers

    def speed_after(*rates: float) -> float | None:
        with session_scope() as s:
            run = TrainingRun(preset="seed", name="a", seed=1, message="", config={"stages": stages})
            s.add(run)
            s.flush()
            s.add_all(
                Epoch(run_id=run.id, stage=n, epoch=0, metrics={"rate": r}, seconds=1) for n, r in enumerate(rates)
            )
            s.flush()
            return measured_speed(s)

    assert speed_after(5000) is None
    measured = speed_after(4000, 100)
    assert measured == pytest.approx(12)
    assert speed_after(5000) == measured
    assert speed_after(5000, 200) == pytest.approx(24)


@pytest.mark.slow
def test_disk_suffices_for_the_features_of_any_cut() -> None:
    from training.network.resnet50 import build_network
    from training.network.training_copy import cut

    network = build_network(224, hidden=8, dropout=0.0)
    for unfreeze in (0, 5, 20, 30, 40, 45, 100, 150, 160, 172):
        frozen = cut(network, unfreeze).frozen
        values = sum(int(np.prod(tensor.shape[1:])) for tensor in frozen.outputs)
        for_features = estimate(config(unfreeze), SLICES).disk - 10 * NETWORK_BYTES
        assert for_features >= 100 * VALUE_BYTES * values, unfreeze
