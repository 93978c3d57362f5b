"""One stage of a run: its epochs, what they come to, and the weights it leaves."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from training.config import ALL, Config, Stage
from training.data.augment import Augmenter
from training.data.batches import Copies, Fresh, half_range, keep_features, seed_of, shrink, steps_of
from training.data.slices import Data, Labelled
from training.loop.watcher import Arrays, Checkpoint, Diverged, EpochRecord, Step, Watcher
from training.network.loss import loss_of
from training.network.training_copy import PREDICT_BATCH, cut, predict, settle_normalisation, training_copy
from worker.engines.keras import on_gpu
from worker.engines.package import probability

AVERAGED_EVERY = 4  # steps between two additions to the moving average of the weights
AT_ONCE = 16 * PREDICT_BATCH  # validation slices
SETTLING_SLICES = 384  # of those to train on, that normalisation is settled on


class _Stopped(Exception):
    """A stop was asked for while frozen layers were computed."""


class Fitting:
    """One stage of a run."""

    def __init__(
        self,
        network: Any,
        config: Config,
        index: int,
        data: Data,
        seed: int,
        folder: Path,
        watcher: Watcher,
        history: list[EpochRecord],
        cached: bool,
    ) -> None:
        self.network, self.config, self.index, self.history, self.watcher = network, config, index, history, watcher
        self.stage: Stage = config.stages[index]
        self.seed = seed_of(seed, index)
        self.initial: Arrays = network.get_weights()
        self.copy = training_copy(
            network, self.stage.size, config.precision, hidden=config.hidden, dropout=config.dropout
        )
        parts = cut(self.copy, self.stage.unfreeze)
        frozen = parts.frozen if cached else None
        self.model = parts.learning if cached or parts.frozen is None else _whole(self.copy)
        self.steps = steps_of(len(data.train), self.stage)
        self.model.compile(
            optimizer=_optimizer(self.stage, self.steps),
            loss=loss_of(self.stage.q, self.stage.label_smoothing),
            metrics=[keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)],  # of logits
            jit_compile=on_gpu(),
        )
        _make_variables(self.model)
        self.labels = data.validation.labels
        self.data, self.folder, self.frozen, self.is_partial = data, folder, frozen, parts.frozen is not None
        self.source: Fresh | Copies | None = None
        self.validation: Arrays = []
        self.unchanged: Path | None = None  # the folder of those, where they are kept on the disk
        self.average: list[Any] = self.model.get_weights() if self.stage.average else []  # tensors, once it learns
        self.best: Arrays = []
        self.best_epoch = -1

    def __enter__(self) -> "Fitting":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self.source, Copies):
            self.source.close()
        if self.unchanged:
            self.validation = []
            shutil.rmtree(self.unchanged, ignore_errors=True)

    def _prepare(self) -> bool:
        """What the epochs need: batches to learn from, and the validation slices; False if a stop came meanwhile."""
        try:
            self.source = self._source(self.data.train)
        except _Stopped:
            return False
        pixels = shrink(self.data.validation.pixels, self.stage.size)
        self.validation = self._kept(pixels) if self.frozen else [pixels[..., None]]
        return True

    def _kept(self, pixels: NDArray[np.uint8]) -> Arrays:
        """The features of validation slices, on the disk as those of the others are."""
        self.unchanged = Path(tempfile.mkdtemp(prefix="features-", dir=self.folder))
        parts = (pixels[start : start + AT_ONCE] for start in range(0, len(pixels), AT_ONCE))
        return keep_features(parts, len(pixels), lambda part: self._features(self.frozen, part), self.unchanged / "0")

    def _source(self, train: Labelled) -> Fresh | Copies:
        augmenter = Augmenter(self.config.augment)
        if not self.is_partial:
            return Fresh(train, self.stage, augmenter, self.seed)

        def progress(share: float) -> None:
            message = f"computing the frozen layers, {share:.0%}"
            self.watcher.step(self._at(0, 0, None, None, message))

        def compute(pixels: NDArray[np.uint8]) -> Arrays:
            if self._is_stopped():
                raise _Stopped
            return self._features(self.frozen, pixels)

        frozen = compute if self.frozen else None
        return Copies(train, self.stage, augmenter, self.seed, frozen, self.folder, progress)

    def _features(self, frozen: Any, pixels: NDArray[np.uint8]) -> Arrays:
        found = predict(frozen, pixels, self.watcher.alive)
        return [half_range(each) for each in (found if isinstance(found, list) else [found])]

    def _at(self, epoch: int, step: int, loss: float | None, rate: float | None, message: str = "") -> Step:
        stages = len(self.config.stages)
        return Step(
            self.index, stages, self.stage.name, epoch, self.stage.epochs, step, self.steps, loss, rate, message
        )

    def run(self, resume: Checkpoint | None) -> None:
        """All epochs that are left; then the weights to keep go to the network, and if everything learned, its
        normalisation settles at full size. A stop too early to better the weights that the stage began with leaves
        those."""
        first = self._restore(resume) if resume else 0
        for epoch in range(first, self.stage.epochs):
            if self._is_stopped() or self._has_stalled(epoch):
                break
            if self.source is None and not self._prepare():
                break
            if not self._epoch(epoch):
                break
        if self._is_stopped() and not self._is_better_than_before():
            return
        if self.stage.keep == "best" and self.best:
            self.model.set_weights(self.best)
        elif self.average:
            self.model.set_weights(self._averaged())
        self.network.set_weights(self.copy.get_weights())
        if self.stage.unfreeze == ALL:
            settle_normalisation(
                self.network,
                self.data.train.some(SETTLING_SLICES).pixels,
                self.config.precision,
                hidden=self.config.hidden,
                dropout=self.config.dropout,
                alive=self.watcher.alive,
            )

    def _is_stopped(self) -> bool:
        """Whether somebody asked for an end, and there is an epoch to keep."""
        return bool(self.history) and self.watcher.stopped()

    def _is_better_than_before(self) -> bool:
        """Whether this stage came to a lower validation loss than the one before it."""
        before, here = self._kept_loss(self.index - 1), self._kept_loss(self.index)
        return here is not None and (before is None or here <= before)

    def _kept_loss(self, index: int) -> float | None:
        """The validation loss of the weights that a stage keeps; None if it has had no epoch."""
        losses = [r.metrics["val_loss"] for r in self.history if r.stage == index]
        if not losses:
            return None
        return min(losses) if self.config.stages[index].keep == "best" else losses[-1]

    def _has_stalled(self, epoch: int) -> bool:
        return bool(self.stage.patience) and self.best_epoch >= 0 and epoch - 1 - self.best_epoch >= self.stage.patience

    def _epoch(self, epoch: int) -> bool:
        """One epoch; False if a stop came before its end, which leaves no record of it."""
        started = time.monotonic()
        _reseed(self.model, seed_of(self.seed, epoch))
        totals = np.zeros(2)
        batches = self.source.epoch(epoch) if self.source else ()
        for step, (inputs, labels) in enumerate(batches, start=1):
            logs = self.model.train_on_batch(_fed(inputs), labels, return_dict=True)
            totals += float(logs["loss"]), float(logs["accuracy"])
            loss, accuracy = totals / step
            if not np.isfinite(loss):
                raise self._diverged(f"epoch {epoch + 1}, step {step}")
            if self.average:
                self._average(epoch, step)
            rate = step * self.stage.batch / (time.monotonic() - started)
            self.watcher.step(self._at(epoch, step, float(loss), rate))
            if self._is_stopped():
                return False
        metrics = {"loss": float(loss), "accuracy": float(accuracy), "rate": rate} | self._validate(epoch)
        record = EpochRecord(self.index, epoch, metrics, time.monotonic() - started)
        self.history.append(record)
        self.watcher.epoch(record)
        is_last = epoch + 1 == self.stage.epochs or self._has_stalled(epoch + 1)
        self.watcher.checkpoint(lambda: self._checkpoint(epoch), ends_stage=is_last)
        return True

    def _average(self, epoch: int, step: int) -> None:
        """Add the weights to the average every few steps, and at the end of an epoch, which is validated by it.

        Early in a stage it is of about the last half of its steps: it would remember the random weights for too long.
        """
        done = epoch * self.steps + step
        if done % AVERAGED_EVERY and step < self.steps:
            return
        since = min(done % AVERAGED_EVERY or AVERAGED_EVERY, step)
        momentum = min(self.stage.average, (1 + done) / (3 + done))
        share = 1 - momentum**since
        pairs = zip(self.average, self.model.weights, strict=True)
        self.average = [mean + share * (weight - mean) for mean, weight in pairs]

    def _averaged(self) -> Arrays:
        """The average, for others to keep: a backend may give away the memory of what its variables were set to."""
        return [np.array(keras.ops.convert_to_numpy(each)) for each in self.average]

    def _diverged(self, when: str) -> Diverged:
        return Diverged(
            f"the loss or a weight is no number any more (stage {self.stage.name}, {when}); "
            f"lower the rate of learning: --set stages.{self.stage.name}.rate={self.stage.rate / 10:g}"
        )

    def _validate(self, epoch: int) -> dict[str, float]:
        """Loss, accuracy and AUC on the validation slices; the best weights so far, by that loss, are kept."""
        weights = self.model.get_weights()
        if self.average:
            self.model.set_weights(self._averaged())
        logit = self._logit()
        # The last step's harm is in no training loss, and a ReLU may hide weights that are no numbers from the logits.
        if not all(np.isfinite(each).all() for each in (logit, *weights)):
            raise self._diverged(f"epoch {epoch + 1}, validation")
        positive = np.clip(probability(logit, 1.0), 1e-7, 1 - 1e-7)
        loss = float(-np.where(self.labels == 1, np.log(positive), np.log(1 - positive)).mean())
        earlier = [r.metrics["val_loss"] for r in self.history if r.stage == self.index]
        if not earlier or loss < min(earlier):
            self.best_epoch = len(earlier)
            self.best = self.model.get_weights() if self.stage.keep == "best" else []
        self.model.set_weights(weights)
        accuracy = float(((positive >= 0.5) == (self.labels == 1)).mean())
        return {"val_loss": loss, "val_accuracy": accuracy, "val_auc": float(roc_auc_score(self.labels, positive))}

    def _logit(self) -> NDArray[np.float64]:
        """Of the validation slices, some at a time: Keras copies all that it is given."""
        starts = range(0, len(self.labels), AT_ONCE)
        parts = (_fed([each[start : start + AT_ONCE] for each in self.validation]) for start in starts)
        return np.concatenate([np.asarray(predict(self.model, part, self.watcher.alive), np.float64) for part in parts])

    def _checkpoint(self, epoch: int) -> Checkpoint:
        optimizer = [np.asarray(keras.ops.convert_to_numpy(v)) for v in self.model.optimizer.variables]
        arrays = {
            "weights": self.model.get_weights(),
            "optimizer": optimizer,
            "average": self._averaged(),
            "best": self.best,
        }
        return Checkpoint(self.index, epoch, list(self.history), self.best_epoch, arrays, self.initial)

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Put everything back as it was after the checkpoint's epoch; the epoch to go on with."""
        self.model.set_weights(checkpoint.arrays["weights"])
        self.model.optimizer.build(self.model.trainable_variables)
        for variable, value in zip(self.model.optimizer.variables, checkpoint.arrays["optimizer"], strict=True):
            variable.assign(value)
        self.average = [np.array(each) for each in checkpoint.arrays["average"]]
        self.best, self.best_epoch = list(checkpoint.arrays["best"]), checkpoint.best_epoch
        return checkpoint.epoch + 1


def _whole(copy: Any) -> Any:
    return keras.Model(copy.input, copy.output["logit"])


def _fed(inputs: Arrays) -> Any:
    """Arrays as Keras takes them: pixels as they are, features in float32; one alone, not in a list."""
    found = [each if each.dtype == np.uint8 else each.astype(np.float32, copy=False) for each in inputs]
    return found if len(found) > 1 else found[0]


def _optimizer(stage: Stage, steps: int) -> Any:
    total = stage.epochs * steps
    rate: Any = stage.rate
    if stage.schedule == "cosine":
        warm = min(max(int(stage.warmup * steps), 1), total - 1)
        rate = keras.optimizers.schedules.CosineDecay(
            stage.rate / 20, total - warm, alpha=0.01, warmup_target=stage.rate, warmup_steps=warm
        )
    if stage.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=stage.weight_decay)
    return keras.optimizers.Adam(rate)


def _make_variables(model: Any) -> None:
    """Make those of the optimiser and the metrics now: TensorFlow traces a step twice if its first trace makes any."""
    model.optimizer.build(model.trainable_variables)
    nothing = np.zeros(1, np.float32)
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()


def _reseed(model: Any, seed: int) -> None:
    """Let dropout draw the same in this epoch, whether or not the run was interrupted before it."""
    generators = [layer.seed_generator for layer in model.layers if getattr(layer, "seed_generator", None) is not None]
    for number, generator in enumerate(generators):
        generator.state.assign(np.array([seed, number], np.uint32))
