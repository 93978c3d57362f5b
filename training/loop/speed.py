"""Measures how fast the stages train here, and compares each with plain `model.fit` on the same slices."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from db.training.progress import EpochRecord
from training.config import ALL, PRESETS, Augment, Config, Stage
from training.data.slices import Data, Labelled
from training.loop.fit import fit
from training.loop.observer import Step, TrainingObserver
from training.network.resnet50 import build_network
from training.network.training_copy import base_layers

STAGES = {"head": 0, "last-20": 20, "last-40": 40, "full": ALL}
EPOCHS = 3  # the first epoch compiles; the quickest of the others counts, for both
Say = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """The images/s of a stage, with our training (`ours`) and with plain fit (`plain`).

    `with_preparing`: our speed, with the time for the frozen layers (`prepare_seconds`, with compiling) spread over the
    epochs of the preset `seed`.
    """

    stage: str
    ours: float
    plain: float
    prepare_seconds: float
    with_preparing: float

    @property
    def ratio(self) -> float:
        """Return our speed divided by that of plain fit."""
        return self.ours / self.plain


class _Timer(TrainingObserver):
    """Notes how long epochs take, and when the first epoch began."""

    def __init__(self) -> None:
        self.records: list[EpochRecord] = []
        self.began: float | None = None

    def step(self, at: Step) -> None:
        if at.step and self.began is None:
            self.began = time.monotonic()

    def epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


def measure(data: Labelled, batch: int, say: Say) -> Iterator[Measured]:
    """Measure each stage in turn, on slices uint8[n,224,224]. Nothing else should run meanwhile."""
    few = Labelled(data.pixels[:batch], data.labels[:batch], data.groups[:batch])
    for name, unfreeze in STAGES.items():
        network = build_network(data.pixels.shape[1], seed=1)
        say(f"{name}: plain model.fit")
        plain = _plain(network, unfreeze, data, batch)
        say(f"{name}: ours")
        stage = Stage(name=name, unfreeze=unfreeze, epochs=EPOCHS, batch=batch, copies=1)
        yield _ours(network, stage, data, few, plain)


def _plain(network: Any, unfreeze: int, data: Labelled, batch: int) -> float:
    """Measure the slices/s of Keras's `fit`, as in its guide to transfer learning: it recomputes frozen layers."""
    layers = base_layers(network)
    for position, layer in enumerate(layers):
        late = unfreeze == ALL or position >= len(layers) - unfreeze
        layer.trainable = late and (unfreeze == ALL or not isinstance(layer, keras.layers.BatchNormalization))
    model = keras.Model(network.input, network.output["logit"])
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    seconds = []
    for _ in range(EPOCHS):
        started = time.monotonic()
        model.fit(data.pixels[..., None], data.labels.astype(np.float32), batch_size=batch, verbose=0)
        seconds.append(time.monotonic() - started)
    return len(data) / min(seconds[1:])


def _ours(network: Any, stage: Stage, data: Labelled, few: Labelled, plain: float) -> Measured:
    config = Config(preset="bench", augment=Augment(), stages=(stage,))
    timer, started = _Timer(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ctbatch-") as folder:
        fit(network, config, Data(data, few), seed=1, folder=Path(folder), observer=timer)
    rate = max(record.metrics["rate"] for record in timer.records[1:])
    preparing = (timer.began or started) - started - len(data) / rate / max(1, len(data) // stage.batch)
    whole = _epochs_of_seed(stage)
    spread = whole * len(data) / (whole * len(data) / rate + preparing) if stage.unfreeze != ALL else rate
    return Measured(stage.name, rate, plain, preparing, spread)


def _epochs_of_seed(stage: Stage) -> int:
    return next((s.epochs for s in PRESETS["seed"].stages if s.unfreeze == stage.unfreeze), 1)
