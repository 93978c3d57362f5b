"""Makes the optimiser of a stage, with its learning-rate schedule."""

from typing import Any

import keras
import numpy as np

from training.config import Stage


def optimizer_of(stage: Stage, steps: int) -> Any:
    """Return the optimiser of a stage. `steps`: the steps in an epoch. As usual, only kernels have weight decay.

    The size of a bias, or of a gamma of normalisation, has nothing to do with the complexity of a network.
    """
    total = stage.epochs * steps
    rate: Any = stage.rate
    if stage.schedule == "cosine":
        warm = min(max(int(stage.warmup * steps), 1), total - 1)
        rate = keras.optimizers.schedules.CosineDecay(
            stage.rate / 20, total - warm, alpha=0.01, warmup_target=stage.rate, warmup_steps=warm
        )
    if stage.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=stage.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
        return optimizer
    return keras.optimizers.Adam(rate)


def make_variables(model: Any) -> None:
    """Make the variables of optimiser and metrics now. Otherwise TensorFlow would trace the step twice."""
    model.optimizer.build(model.trainable_variables)
    nothing = np.zeros(1, np.float32)
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()
