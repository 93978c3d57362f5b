"""Training learns: from nothing, on small pictures of phantoms, to tell apart those of patients that it never saw."""

from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from training.config import ALL, Augment, Config, Stage
from training.dataset import Data, Labelled
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


def test_phantoms_of_unseen_patients_are_told_apart(tmp_path: Path) -> None:
    import keras

    from training.fit import fit
    from training.network import build_network, start_residuals_at_zero

    train, validation, unseen = draw(0, 12), draw(12, 4), draw(16, 10)
    keras.utils.set_random_seed(SEED)
    network = build_network(SIDE, hidden=16, seed=SEED)
    start_residuals_at_zero(network)
    config = Config(preset="test", augment=Augment(flip=True), stages=(SMALL,), hidden=16)
    outcome = fit(network, config, Data(train, validation), seed=SEED, folder=tmp_path)
    logit = np.ravel(network(unseen.pixels[..., None])["logit"])
    assert roc_auc_score(unseen.labels, logit) > 0.85
    assert outcome.history[-1].metrics["loss"] < outcome.history[0].metrics["loss"]
