"""What a run is said to take: at most that, whichever layers learn."""

import numpy as np
import pytest

from training.config import ALL, PRESETS, Config, Stage
from training.launch.estimate import NETWORK_BYTES, VALUE_BYTES, estimate

SLICES = {"train": 100, "validation": 20, "test": 20}


def config(unfreeze: int) -> Config:
    """A run of one stage."""
    stage = Stage(name="late", unfreeze=unfreeze, epochs=10, copies=1)
    return PRESETS["seed"].model_copy(update={"stages": (stage,)})


@pytest.mark.parametrize("unfreeze", [41, 60, 100, 172])
def test_more_layers_than_were_measured_take_no_less_than_all(unfreeze: int) -> None:
    assert estimate(config(unfreeze), SLICES).seconds >= estimate(config(ALL), SLICES).seconds


def test_what_comes_after_training_is_in_it() -> None:
    """The quick preset on 1,981 real slices took ten minutes on two cores, six of them training."""
    minutes = estimate(PRESETS["quick"], {"train": 1382, "validation": 200, "test": 399}).seconds / 60
    assert 9.5 < minutes < 12


def test_the_disk_suffices_for_the_features_of_any_cut() -> None:
    from training.network.resnet50 import build_network
    from training.network.training_copy import cut

    network = build_network(224, hidden=8, dropout=0.0)
    for unfreeze in (0, 5, 20, 30, 40, 45, 100, 150, 160, 172):
        frozen = cut(network, unfreeze).frozen
        values = sum(int(np.prod(tensor.shape[1:])) for tensor in frozen.outputs)
        told = estimate(config(unfreeze), SLICES).disk - 10 * NETWORK_BYTES
        assert told >= 100 * VALUE_BYTES * values, unfreeze
