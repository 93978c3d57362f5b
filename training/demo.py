"""The demo model: a real ResNet50, trained in minutes on synthetic phantoms. It knows nothing about patients.

It learns by the same parts as any run: the whole network on small pictures, then, its normalisation settled at full
size, the head on full-size ones. What it scores is measured on phantoms of patients that it never saw.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from training.calibrate import choose_threshold, fit_temperature, probability
from training.config import ALL, Augment, Config, Stage
from training.dataset import Data, Labelled
from training.drawing import draw_on_all_cores
from training.evaluate import with_intervals
from training.fit import fit
from training.network import build_network, start_residuals_at_zero
from training.ood import threshold_of, with_distance
from training.publish import publish
from training.results import score
from training.watching import Step, Watcher
from worker.engines.package import Package

NAME = "demo"
NOTE = "demo: synthetic phantoms, knows nothing about patients"
PAIRS = {"train": 480, "validation": 60, "test": 60}  # of patients, an ill and a healthy one; disjoint
SLICES_A_PATIENT = 2
HEAD_SLICES = 640  # of those to train on, at full size


def _stage(name: str, unfreeze: int, epochs: int, **more: Any) -> Stage:
    return Stage(
        name=name,
        unfreeze=unfreeze,
        epochs=epochs,
        optimizer="adamw",
        rate=1e-3,
        schedule="cosine",
        keep="last",
        **more,
    )


EVERYTHING = _stage("small", ALL, 2, size=96, warmup=0.3, weight_decay=0.02)
HEAD = _stage("head", 0, 30, copies=1, warmup=1, weight_decay=0.05, label_smoothing=0.05)
CONFIG = Config(preset=NAME, augment=Augment(flip=True), stages=(EVERYTHING, HEAD))

Progress = Callable[[float, str], None]


class _Teller(Watcher):
    """Tells the share done, from `first` to `last`, and what is trained."""

    def __init__(self, progress: Progress, first: float, last: float, what: str) -> None:
        self._progress, self._first, self._last, self._what = progress, first, last, what

    def step(self, at: Step) -> None:
        share = (at.epoch + at.step / at.steps) / at.epochs
        self._progress(self._first + (self._last - self._first) * share, self._what)


def make_demo_package(folder: Path, *, seed: int = 7, progress: Progress = lambda fraction, message: None) -> Package:
    """Train the demo model and write its package into `folder`.

    Args:
        folder: is made if it is not there.
        seed: of the phantoms, the weights and the order of training.
        progress: told the fraction done, 0 to 1, and what goes on.

    Returns:
        The package, with its figures on unseen phantoms.
    """
    progress(0.0, "drawing phantoms")
    data = _draw(seed)
    train, validation, test = data["train"], data["validation"], data["test"]
    network = _train(train, validation, seed, progress)
    progress(0.75, "learning what is familiar")
    network = with_distance(network, train.pixels, most=256)
    progress(0.8, "measuring")
    seen, unseen = (score(network, part.pixels, lambda: None) for part in (validation, test))
    temperature = fit_temperature(seen.logit, validation.labels, validation.groups)
    threshold = choose_threshold(probability(seen.logit, temperature), validation.labels)
    figures = with_intervals(probability(unseen.logit, temperature), test.labels, test.groups, threshold)
    progress(0.88, "exporting, and comparing the engines")
    return publish(
        network,
        folder,
        name=NAME,
        note=NOTE,
        slices=test.pixels,
        labels=test.labels,
        calibration=validation.pixels,
        threshold=threshold,
        temperature=temperature,
        metrics={"measured_on": "phantoms of unseen patients", **figures},
        dataset_hash=hashlib.sha256(train.pixels.tobytes()).hexdigest(),
        extra={"seed": seed, "trained_on": "synthetic phantoms", "config": CONFIG.model_dump(mode="json")},
        ood={"threshold": threshold_of(np.concatenate([seen.distance, unseen.distance]))},
    )


def _train(train: Labelled, validation: Labelled, seed: int, progress: Progress) -> Any:
    """A network that learned on small pictures, and whose head learned on full-size ones."""
    keras.utils.set_random_seed(seed)
    network = build_network(hidden=CONFIG.hidden, dropout=CONFIG.dropout, seed=seed)
    start_residuals_at_zero(network)
    some = train.some(HEAD_SLICES)
    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:

        def learn(stage: Stage, data: Labelled, *told: Any) -> None:
            alone = CONFIG.model_copy(update={"stages": (stage,)})
            watcher = _Teller(progress, *told)
            fit(network, alone, Data(data, validation), seed=seed, folder=Path(folder), watcher=watcher)

        learn(EVERYTHING, train, 0.08, 0.5, f"training everything at {EVERYTHING.size} × {EVERYTHING.size}")
        progress(0.55, "computing the features of full-size slices")
        learn(HEAD, some, 0.7, 0.75, f"training the head at {HEAD.size} × {HEAD.size}")
    return network


def _draw(seed: int) -> dict[str, Labelled]:
    """The three disjoint sets of phantoms, drawn on all cores; a patient is a group."""
    found, first = {}, 0
    for name, pairs in PAIRS.items():
        drawn = draw_on_all_cores(seed, pairs, SLICES_A_PATIENT, first_pair=first, size=224)
        found[name] = Labelled(drawn.pixels, drawn.labels, [str(patient) for patient in drawn.patients])
        first += pairs
    return found
