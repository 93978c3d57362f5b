"""Estimates, before a run starts, its time and the disk space that it needs while it runs.

The time is calculated from the speed of the last run that trained here. If there is none yet, the estimate is for two
cores that compute in bfloat16.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from training.config import ALL, Config, Stage

WHOLE = 175  # layers of ResNet50
# The time of a training step at 224² as a share of a whole step, in which all of ResNet50 learns, by the number of
# layers that learn. Measured on two cores with `ctbatch bench training`, which can measure any machine. With more than
# 40 layers, a step counts as a whole one.
STEP_SHARE = {0: 0.002, 20: 0.12, 40: 0.25, WHOLE: 1.0}
FORWARD_SHARE = 0.3
IMAGES_A_SECOND = 9.0  # of a whole training step at 224², in bfloat16 on two cores of a Zen 4
# The most values that pass from the frozen layers to the others for a slice of 224², by the number of learning layers.
CUT_VALUES = {0: 2048, 20: 49 * (2048 + 512), 40: 196 * (1024 + 256), WHOLE: 3136 * (256 + 256)}
VALUE_BYTES = 4  # 2 bytes would do if the run computes in bfloat16, but only its worker knows that
NETWORK_BYTES = 95 << 20
# The processor does the work below, so a GPU does not shorten it.
STAGE_SECONDS = 30  # to build and compile the network of a stage
PACKAGE_SECONDS = 150  # to export, quantise, compare the engines and write the report
FAMILIAR_SLICES = 768  # the most training slices to which the distance is fitted


@dataclass(frozen=True)
class Estimate:
    """The seconds and the bytes of disk that a run takes, if no stage stops early.

    `is_measured`: the seconds are calculated from the speed of an earlier run.
    """

    seconds: float
    disk: int
    is_measured: bool = False

    def as_dict(self) -> dict[str, float]:
        """Return the seconds and the bytes as JSON."""
        return {"seconds": self.seconds, "disk": self.disk}

    @property
    def speed_text(self) -> str:
        """Return in words for which machine the time is."""
        return "at the speed of the last run here" if self.is_measured else "on two cores with bfloat16"

    @property
    def text(self) -> str:
        """Return the estimate in words."""
        minutes = max(1, round(self.seconds / 60))
        return f"about {minutes} min {self.speed_text}, and {self.disk / 1e9:.1f} GB of disk meanwhile"


def whole_speed(stage: Stage, rate: float) -> float:
    """Return the slices/s of a whole training step at 224² on a machine that trains this stage at `rate` slices/s."""
    share = 1.0 if stage.unfreeze == ALL else _at_most(STEP_SHARE, stage.unfreeze)
    return rate * (stage.size / 224) ** 2 * share


def estimate(config: Config, slices: Mapping[str, int], speed: float | None = None) -> Estimate:
    """Estimate a run with its evaluation and package, by its config and the number of slices in each part.

    `speed`: slices/s of a whole training step at 224², or None if no run was measured here.
    """
    train, validation = slices["train"], slices["validation"]
    scored = min(train, FAMILIAR_SLICES) + validation + slices["test"]
    learning = sum(_seconds(stage, train, validation) for stage in config.stages)
    network = learning + FORWARD_SHARE * scored / IMAGES_A_SECOND
    others = STAGE_SECONDS * len(config.stages) + PACKAGE_SECONDS
    slower = IMAGES_A_SECOND / speed if speed else 1.0
    disk = max(_features(stage, train, validation) for stage in config.stages) + 10 * NETWORK_BYTES
    return Estimate(network * slower + others * max(slower, 1.0), disk, speed is not None)


def _at_most(table: dict[int, float] | dict[int, int], unfreeze: int) -> float:
    return float(table[min(layers for layers in table if layers >= unfreeze)])


def _seconds(stage: Stage, train: int, validation: int) -> float:
    rate = IMAGES_A_SECOND * (224 / stage.size) ** 2
    learning = stage.epochs * (train + FORWARD_SHARE * validation) / rate
    if stage.unfreeze == ALL:
        return learning
    frozen = FORWARD_SHARE * (min(stage.copies, stage.epochs) * train + validation) / rate
    return frozen + _at_most(STEP_SHARE, stage.unfreeze) * learning


def _features(stage: Stage, train: int, validation: int) -> int:
    if stage.unfreeze == ALL:
        return 0
    size = VALUE_BYTES * _at_most(CUT_VALUES, stage.unfreeze) * (stage.size / 224) ** 2
    return int((min(stage.copies, stage.epochs) * train + validation) * size)
