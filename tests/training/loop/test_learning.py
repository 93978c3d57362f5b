"""Training learns: from nothing, on small pictures of phantoms, to tell apart those of patients that it never saw."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.config import ALL, Augment, Config, Stage
from training.data.slices import Data, Labelled
from worker.phantoms.slices import labelled_slices

SIDE = 64
SEED = 7
SMALL = Stage(
    name="small",
    unfreeze=ALL,
    size=SIDE,
    epochs=9,
    batch=16,
    rate=1e-3,
    schedule="cosine",
    warmup=0.5,
    keep="last",
)


def draw(first_pair: int, pairs: int) -> Labelled:
    """Four slices of each of these patients, half of whom are ill."""
    drawn = labelled_slices(SEED, pairs, 4, first_pair=first_pair, size=SIDE)
    return Labelled(drawn.pixels, drawn.labels, [str(patient) for patient in drawn.patients])


def dotted(count: int, seed: int) -> Labelled:
    """Noise, with a bright square at a place of its own in the positive half."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 160, (count, SIDE, SIDE), dtype=np.uint8)
    labels = (np.arange(count) % 2).astype(np.uint8)
    for at in np.flatnonzero(labels):
        row, column = rng.integers(0, SIDE - 24, 2)
        pixels[at, row : row + 24, column : column + 24] += 90
    return Labelled(pixels, labels, [str(number) for number in range(count)])


@pytest.mark.slow
def test_small_network_generalises_to_unseen_slices(small_network: None, tmp_path: Path) -> None:
    learn(dotted(96, 1), dotted(32, 2), dotted(80, 3), tmp_path)


@pytest.mark.slow
def test_phantoms_of_unseen_patients_are_classified(tmp_path: Path) -> None:
    learn(draw(0, 12), draw(12, 4), draw(16, 10), tmp_path)


def learn(train: Labelled, validation: Labelled, unseen: Labelled, folder: Path) -> None:
    """Train from nothing, and hold the network against slices that it never saw."""
    import keras

    from training.loop.fit import fit
    from training.network.resnet50 import build_network, start_residuals_at_zero

    keras.utils.set_random_seed(SEED)
    network = build_network(SIDE, hidden=16, seed=SEED)
    start_residuals_at_zero(network)
    config = Config(preset="test", augment=Augment(flip=True), stages=(SMALL,), hidden=16)
    history = fit(network, config, Data(train, validation), seed=SEED, folder=folder).history
    logit = np.ravel(network(unseen.pixels[..., None])["logit"])
    assert roc_auc_score(unseen.labels, logit) > 0.85
    assert history[-1].metrics["loss"] < history[0].metrics["loss"]
