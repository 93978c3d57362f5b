"""The demo model: a real ResNet50, trained in minutes on synthetic phantoms. It knows nothing about patients.

A network of this size learns little from so few steps at full size, so it starts on small pictures and moves up; its
head is then fitted once more to the features of full-size slices. What it scores is measured at full size, on phantoms
of patients that it never saw.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.batches import shrink
from training.calibrate import choose_threshold, fit_temperature, probability
from training.drawing import draw_on_all_cores
from training.evaluate import with_intervals
from training.network import build_network, start_residuals_at_zero
from training.phantoms import LabelledSlices
from training.publish import publish
from training.trainable import training_copy
from worker.engines.package import Package

NAME = "demo"
NOTE = "demo: synthetic phantoms, knows nothing about patients"
SIZE, HIDDEN, DROPOUT = 224, 256, 0.3
PAIRS = {"train": 480, "validation": 60, "test": 60}  # of patients, an ill and a healthy one; disjoint
SLICES_A_PATIENT = 2
HEAD_SLICES = 640  # of the training set, whose full-size features the head is fitted to
HEAD_EPOCHS = 60

Progress = Callable[[float, str], None]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Stage:
    """Some steps at one size of picture. `rate` is the peak of a cosine schedule."""

    size: int
    steps: int
    batch: int
    rate: float


STAGES = (Stage(64, 180, 32, 1e-3), Stage(128, 40, 16, 4e-4), Stage(SIZE, 12, 12, 2e-4))


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
    keras.utils.set_random_seed(seed)
    network = build_network(SIZE, hidden=HIDDEN, dropout=DROPOUT, seed=seed)
    start_residuals_at_zero(network)
    done, total = 0, sum(stage.steps for stage in STAGES)
    for stage in STAGES:
        for step in _train(network, stage, data["train"], seed):
            if step % 5 == 0:
                progress(0.1 + 0.6 * (done + step) / total, f"training at {stage.size} × {stage.size}")
        done += stage.steps
    progress(0.72, "fitting the head at full size")
    _fit_head(network, data["train"])
    progress(0.8, "measuring")
    validation, test = data["validation"], data["test"]
    logit = _logits(network, validation.pixels)
    temperature = fit_temperature(logit, validation.labels)
    threshold = choose_threshold(probability(logit, temperature), validation.labels)
    scores = probability(_logits(network, test.pixels), temperature)
    figures = with_intervals(scores, test.labels, [str(each) for each in test.patients], threshold)
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
        dataset_hash=hashlib.sha256(data["train"].pixels.tobytes()).hexdigest(),
        extra={"seed": seed, "trained_on": "synthetic phantoms"},
    )


def _draw(seed: int) -> dict[str, LabelledSlices]:
    """The three disjoint sets of phantoms, drawn on all cores."""
    found, first = {}, 0
    for name, pairs in PAIRS.items():
        found[name] = draw_on_all_cores(seed, pairs, SLICES_A_PATIENT, first_pair=first, size=SIZE)
        first += pairs
    return found


def _trainable(network: Any, size: int) -> Any:
    """The network at another size, as it trains fastest, with the same weights."""
    return training_copy(network, size, "bfloat16", hidden=HIDDEN, dropout=DROPOUT)


def _train(network: Any, stage: Stage, data: LabelledSlices, seed: int) -> Iterator[int]:
    """Train at one size and give the weights back to `network`; yields after each step."""
    copy = _trainable(network, stage.size)
    model = keras.Model(copy.input, copy.output["logit"])
    warm = max(stage.steps // 8, 1)
    rate = keras.optimizers.schedules.CosineDecay(
        stage.rate / 20, stage.steps - warm, warmup_target=stage.rate, warmup_steps=warm
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(rate, weight_decay=0.02),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=False,
    )
    pixels = shrink(data.pixels, stage.size)
    for step, chosen in enumerate(_batches(len(pixels), stage, seed), start=1):
        batch = pixels[chosen]  # a copy
        flipped = np.random.default_rng([seed, stage.size, step]).random(len(batch)) < 0.5
        batch[flipped] = batch[flipped][:, :, ::-1]
        model.train_on_batch(batch[..., None], data.labels[chosen].astype(np.float32))
        yield step
    network.set_weights(copy.get_weights())


def _batches(count: int, stage: Stage, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng([seed, stage.size])
    order = np.concatenate([rng.permutation(count) for _ in range(stage.steps * stage.batch // count + 1)])
    yield from order[: stage.steps * stage.batch].reshape(stage.steps, stage.batch)


def _fit_head(network: Any, data: LabelledSlices) -> None:
    """Fit the two dense layers once more, to full-size features of some of the training slices."""
    copy = _trainable(network, SIZE)
    base = keras.Model(copy.input, copy.get_layer("flatten").output)
    chosen = np.linspace(0, len(data.pixels) - 1, HEAD_SLICES).astype(int)
    pixels = data.pixels[chosen]
    forward = tf.function(lambda batch: base(batch, training=True))
    for start in range(0, 15 * 16, 16):  # the statistics of normalisation, at this size
        forward(pixels[np.arange(start, start + 16) * 7 % len(pixels)][..., None])
    network.set_weights(copy.get_weights())
    features = base.predict(pixels[..., None], batch_size=32, verbose=0).astype(np.float32)
    head = keras.Sequential(
        [keras.Input((features.shape[1],)), keras.layers.Dense(HIDDEN, "relu"), keras.layers.Dropout(DROPOUT),
         keras.layers.Dense(1)]
    )  # fmt: skip
    head.layers[0].set_weights(network.get_layer("hidden").get_weights())
    head.layers[2].set_weights(network.get_layer("output").get_weights())
    steps = HEAD_EPOCHS * (len(features) // 32)
    head.compile(
        optimizer=keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(1e-3, steps), weight_decay=0.05),
        loss=keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.05),
    )
    head.fit(features, data.labels[chosen], batch_size=32, epochs=HEAD_EPOCHS, verbose=0)
    network.get_layer("hidden").set_weights(head.layers[0].get_weights())
    network.get_layer("output").set_weights(head.layers[2].get_weights())


def _logits(network: Any, pixels: Pixels) -> NDArray[np.float64]:
    found = network.predict(pixels[..., None], batch_size=32, verbose=0)["logit"]
    return np.asarray(found, np.float64)
