"""Estimates what a run will take before it starts: minutes, and gigabytes of disk while it lasts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from training.config import ALL, Config, Stage

WHOLE = 175  # layers of ResNet50
# A training step at 224², as a share of one in which all of ResNet50 learns, by the layers that learn. Measured on two
# cores by `ctbatch bench training`, which measures any machine. Beyond 40 layers a step counts as a whole one.
STEP_SHARE = {0: 0.002, 20: 0.12, 40: 0.25, WHOLE: 1.0}
FORWARD_SHARE = 0.3
IMAGES_A_SECOND = 9.0  # of a whole training step at 224², on two cores that compute in bfloat16
# Values of a slice's features at 224², by the layers that learn: the most that lie between these and the frozen ones.
CUT_VALUES = {0: 2048, 20: 49 * (2048 + 512), 40: 196 * (1024 + 256), WHOLE: 3136 * (256 + 256)}
VALUE_BYTES = 4  # half of that if the run computes in bfloat16, which only its worker knows
NETWORK_BYTES = 95 << 20
STAGE_SECONDS = 30  # until a stage's first step: its network is built and compiled
PACKAGE_SECONDS = 150  # exporting, int8, comparing the engines, reporting
FAMILIAR_SLICES = 768  # training slices, at most, that the distance is fitted to


@dataclass(frozen=True)
class Estimate:
    """An upper bound, since it assumes no early stop. `seconds` on a machine of two cores, `disk` in bytes."""

    seconds: float
    disk: int

    def as_dict(self) -> dict[str, float]:
        """Return the fields as JSON."""
        return asdict(self)

    @property
    def text(self) -> str:
        """The estimate in words."""
        minutes = max(1, round(self.seconds / 60))
        return f"at most about {minutes} min on two cores without a GPU, and {self.disk / 1e9:.1f} GB of disk meanwhile"


def estimate(config: Config, slices: Mapping[str, int]) -> Estimate:
    """Estimate a run by its config and the number of slices of each part, evaluation and package included."""
    train, validation = slices["train"], slices["validation"]
    seconds = sum(STAGE_SECONDS + _seconds(stage, train, validation) for stage in config.stages)
    scored = min(train, FAMILIAR_SLICES) + validation + slices["test"]
    seconds += PACKAGE_SECONDS + FORWARD_SHARE * scored / IMAGES_A_SECOND
    disk = max(_features(stage, train, validation) for stage in config.stages) + 10 * NETWORK_BYTES
    return Estimate(seconds, disk)


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
