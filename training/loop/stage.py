"""Trains one stage of a run: its epochs, and the weights that it leaves.

Optimisers, losses, learning-rate schedules, metrics and single steps (`train_on_batch`) are those of Keras. `fit` and
its callbacks are not used, for these reasons:

- A stop or a cancellation ends the epoch within a step, and leaves no record of the epoch. After `stop_training`, `fit`
  still validates and reports the epoch that was cut short.
- `EarlyStopping` forgets its best weights and its patience at each call of `fit`, and so also when a run is resumed.
- `BackupAndRestore` keeps the model in a folder of one machine. But a run continues on any machine with a free worker.
  So its checkpoint is in storage, with the best weights, their average and the epochs so far.
- `SwapEMAWeights` averages only trained weights, with one momentum. Here the statistics of normalisation are averaged
  too, and the momentum grows with the steps (`WeightAverage`).

Without validation and callbacks, `fit` is only a loop over batches. The batches are cached features of frozen layers
(`StageData`).
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from db.training.progress import EpochRecord
from training.config import ALL, Config, Stage
from training.data.batches import seed_of, steps_of
from training.data.slices import Data
from training.errors import Diverged
from training.loop.observer import Arrays, Checkpoint, Step, TrainingObserver
from training.loop.optimizer import make_variables, optimizer_of
from training.loop.stage_data import StageData
from training.loop.validation import as_input, class_weights, cross_entropy, predict_parts
from training.loop.weight_average import WeightAverage
from training.network.loss import loss_of
from training.network.training_copy import cut, settle_normalisation, training_copy
from worker.engines.keras import on_gpu

SETTLING_SLICES = 384  # training slices for recomputing the statistics of normalisation


class _Stopped(Exception):
    """Somebody stopped the run while frozen layers were computed."""


class Fitting:
    """One stage of a run. `history`: the epochs of the run so far. Those of the stage are added to it.

    `network_stage`: the stage that left the network's weights, or None for the initial weights. `run` updates it.
    """

    def __init__(
        self,
        network: Any,
        config: Config,
        index: int,
        data: Data,
        seed: int,
        folder: Path,
        observer: TrainingObserver,
        history: list[EpochRecord],
        network_stage: int | None = None,
    ) -> None:
        self.network, self.config, self.index, self.history, self.observer = network, config, index, history, observer
        self.stage: Stage = config.stages[index]
        self.network_stage = network_stage
        self.seed = seed_of(seed, index)
        self.data, self.folder = data, folder
        self.initial: Arrays = network.get_weights()
        self.copy = training_copy(network, self.stage.size, config)
        self.parts = cut(self.copy, self.stage.unfreeze)
        self.model = self.parts.learning
        self.steps = steps_of(len(data.train), self.stage)
        self.model.compile(
            optimizer=optimizer_of(self.stage, self.steps),
            loss=loss_of(self.stage.q, self.stage.label_smoothing),
            metrics=[keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)],  # of logits
            jit_compile=on_gpu(),
        )
        make_variables(self.model)
        self.average = WeightAverage(self.model, self.stage.average) if self.stage.average else None
        self.best: Arrays = []
        self.best_epoch = -1
        self.loss_before: float | None = None
        self.class_weight = class_weights(data.train.labels) if config.balanced else None

    def run(self, resume: Checkpoint | None) -> bool:
        """Train the remaining epochs, and put the weights of the stage into the network.

        Return False if a stop ended the stage before its last epoch.

        If no epoch is better than the weights with which the stage began, the network keeps these weights. This applies
        to stages that keep their best epoch, and to any stage after a stop. If all layers learned, the statistics of
        normalisation are recomputed at full size.
        """
        is_complete = self._train(self._restore(resume) if resume else 0)
        if (self.stage.keep == "best" or self._is_stopped()) and not self._is_better_than_before():
            return is_complete
        if self.stage.keep == "best" and self.best:
            self.model.set_weights(self.best)
        elif self.average:
            self.model.set_weights(self.average.arrays())
        self.network.set_weights(self.copy.get_weights())
        self.network_stage = self.index
        if self.stage.unfreeze == ALL:
            slices = self.data.train.some(SETTLING_SLICES).pixels
            settle_normalisation(self.network, slices, self.config, alive=self.observer.alive)
        return is_complete

    def _train(self, first: int) -> bool:
        """Train the epochs from `first` on. Return False if somebody stopped the run."""
        if self._has_stalled(first) or first == self.stage.epochs:
            return True
        if self._is_stopped():
            return False
        try:
            data = StageData(
                self.data,
                self.stage,
                self.config.augment,
                self.parts,
                self.seed,
                self.folder,
                progress=self._report_copies,
                alive=self._hear_stop,
            )
        except _Stopped:
            return False
        try:
            if first == 0:
                self.loss_before = self._loss_before(data)
            for epoch in range(first, self.stage.epochs):
                if self._has_stalled(epoch):
                    break
                if self._is_stopped() or not self._epoch(epoch, data):
                    return False
        finally:
            data.close()
        return True

    def _report_copies(self, share: float) -> None:
        self.observer.step(self._at(0, 0, None, None, f"computing the frozen layers, {share:.0%}"))

    def _hear_stop(self) -> None:
        self.observer.alive()
        if self._is_stopped():
            raise _Stopped

    def _at(self, epoch: int, step: int, loss: float | None, rate: float | None, message: str = "") -> Step:
        stages = len(self.config.stages)
        return Step(
            self.index, stages, self.stage.name, epoch, self.stage.epochs, step, self.steps, loss, rate, message
        )

    def _is_stopped(self) -> bool:
        """Return whether somebody stopped the run, and there is an epoch to keep."""
        return bool(self.history) and self.observer.stopped()

    def _loss_before(self, data: StageData) -> float | None:
        """Return the validation loss that this stage must improve.

        It is the loss of the weights with which the stage begins. For a stage that keeps its last epoch, it is the loss
        of the previous stage, if there is a previous stage. The slices of this stage may have another size, for which
        the present statistics of normalisation are wrong.
        """
        if self.stage.keep == "last":
            return _kept_loss(self.history, self.config.stages, self.index - 1)
        return self._validation_loss(predict_parts(self.model, data.validation, self.observer.alive))

    def _is_better_than_before(self) -> bool:
        """Return whether this stage reached a lower validation loss than there was before."""
        here = _kept_loss(self.history, self.config.stages, self.index)
        return here is not None and (self.loss_before is None or here < self.loss_before)

    def _has_stalled(self, epoch: int) -> bool:
        return bool(self.stage.patience) and self.best_epoch >= 0 and epoch - 1 - self.best_epoch >= self.stage.patience

    def _epoch(self, epoch: int, data: StageData) -> bool:
        """Train and validate one epoch. Return False, and record nothing, if a stop came before its end."""
        started = began = time.monotonic()
        _reseed(self.model, seed_of(self.seed, epoch))
        totals = np.zeros(2)
        for step, (inputs, labels) in enumerate(data.epoch(epoch), start=1):
            began = time.monotonic() if step == 2 else began  # the first step may compile the stage
            logs = self.model.train_on_batch(as_input(inputs), labels, class_weight=self.class_weight, return_dict=True)
            totals += float(logs["loss"]), float(logs["accuracy"])
            loss, accuracy = totals / step
            if not np.isfinite(loss):
                raise Diverged(self.stage.name, f"epoch {epoch + 1}, step {step}", self.stage.rate)
            if self.average:
                self.average.add(epoch * self.steps + step, step, ends_epoch=step == self.steps)
            rate = max(step - 1, 1) * self.stage.batch / (time.monotonic() - began)
            self.observer.step(self._at(epoch, step, float(loss), rate))
            if self._is_stopped():
                return False
        metrics = {"loss": float(loss), "accuracy": float(accuracy), "rate": rate} | self._validate(epoch, data)
        record = EpochRecord(self.index, epoch, metrics, time.monotonic() - started)
        self.history.append(record)
        self.observer.epoch(record)
        is_last = epoch + 1 == self.stage.epochs or self._has_stalled(epoch + 1)
        self.observer.checkpoint(lambda: self._checkpoint(epoch), ends_stage=is_last)
        return True

    def _validate(self, epoch: int, data: StageData) -> dict[str, float]:
        """Return loss, accuracy and AUC on the validation slices. Keep the weights if the loss is the lowest so far."""
        weights = self.model.get_weights()
        if self.average:
            self.model.set_weights(self.average.arrays())
        logit = predict_parts(self.model, data.validation, self.observer.alive)
        # The training loss does not show damage by the last step, and a ReLU may hide NaN weights from the logits.
        if not all(np.isfinite(array).all() for array in (logit, *weights)):
            raise Diverged(self.stage.name, f"epoch {epoch + 1}, validation", self.stage.rate)
        loss, earlier = self._validation_loss(logit), _losses(self.history, self.index)
        if not earlier or loss < min(earlier):
            self.best_epoch = len(earlier)
            self.best = self.model.get_weights() if self.stage.keep == "best" else []
        self.model.set_weights(weights)
        labels = self.data.validation.labels
        accuracy = float(((logit >= 0) == (labels == 1)).mean())
        return {"val_loss": loss, "val_accuracy": accuracy, "val_auc": float(roc_auc_score(labels, logit))}

    def _validation_loss(self, logit: NDArray[np.float64]) -> float:
        return cross_entropy(logit, self.data.validation.labels, balanced=self.config.balanced)

    def _checkpoint(self, epoch: int) -> Checkpoint:
        arrays = {
            "weights": self.model.get_weights(),
            "optimizer": [np.asarray(keras.ops.convert_to_numpy(v)) for v in self.model.optimizer.variables],
            "average": self.average.arrays() if self.average else [],
            "best": self.best,
        }
        history, before = list(self.history), self.loss_before
        return Checkpoint(self.index, epoch, history, self.best_epoch, before, arrays, self.initial, self.network_stage)

    def _restore(self, checkpoint: Checkpoint) -> int:
        """Restore the state after the checkpoint's epoch, and return the next epoch."""
        self.model.set_weights(checkpoint.arrays["weights"])
        for variable, value in zip(self.model.optimizer.variables, checkpoint.arrays["optimizer"], strict=True):
            variable.assign(value)
        if self.average:
            self.average.restore(checkpoint.arrays["average"])
        self.best, self.best_epoch = list(checkpoint.arrays["best"]), checkpoint.best_epoch
        self.loss_before = checkpoint.loss_before
        return checkpoint.epoch + 1


def _losses(history: list[EpochRecord], stage: int) -> list[float]:
    return [record.metrics["val_loss"] for record in history if record.stage == stage]


def _kept_loss(history: list[EpochRecord], stages: Sequence[Stage], stage: int) -> float | None:
    """Return the validation loss of the weights that a stage keeps, or None if it has had no epoch."""
    losses = _losses(history, stage)
    if not losses:
        return None
    return min(losses) if stages[stage].keep == "best" else losses[-1]


def _reseed(model: Any, seed: int) -> None:
    """Let dropout draw the same numbers in this epoch, even if the run was interrupted before."""
    generators = [layer.seed_generator for layer in model.layers if getattr(layer, "seed_generator", None) is not None]
    for number, generator in enumerate(generators):
        generator.state.assign(np.array([seed, number], np.uint32))
