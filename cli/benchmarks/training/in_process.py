"""Measures training alone, in this process: slices/s, time, and the metrics on unseen groups."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from statistics import median

from cli.errors import JobFailed
from cli.local.session import reading, writing
from cli.local.training_runs import refusals
from cli.output import print_json, print_table, say
from db.database import current
from db.training.progress import EpochRecord
from training.config import Stage
from training.errors import message_for
from training.launch.launch import LaunchPlan, RunRequest, prepare
from training.loop.observer import TrainingObserver


class EpochPrinter(TrainingObserver):
    """Prints a line for each epoch."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages

    def epoch(self, record: EpochRecord) -> None:
        """Print the speed and the losses of an epoch on stderr."""
        stage, m = self._stages[record.stage], record.metrics
        epoch = f"{stage.name}: epoch {record.epoch + 1} of {stage.epochs}, {m['rate']:.0f} slices/s"
        say(f"{epoch}, loss {m['loss']:.3f}, validation {m['val_loss']:.3f}, AUC {m['val_auc']:.3f}")


@dataclass(frozen=True)
class StageSpeed:
    """The speed of a stage.

    `size`: side of the slices in pixels. `rate`: median of the slices/s. `seconds`: the time of all epochs together.
    """

    name: str
    size: int
    epochs: int
    rate: float
    seconds: float


@dataclass(frozen=True)
class FitReport:
    """The speed of training, and the metrics on the `n` slices of the test part."""

    dataset: str
    preset: str
    seed: int
    split: str
    environment: dict[str, str]
    stages: list[StageSpeed]
    seconds: float
    n: int
    metrics: dict[str, float | None]


def run(request: RunRequest, as_json: bool) -> None:
    """Train as a training run does, but in this process. Print the speed of each stage, the time and the metrics.

    Only the split is stored. No worker runs and no package is made. The metrics have no intervals. Probabilities are
    not calibrated, and the threshold is 0.5.

    Raises:
        JobFailed: training failed.
    """
    with refusals():
        plan = prepare(request, writing, reading)
    try:
        report = _train(plan)
    except Exception as error:
        raise JobFailed(message_for(error)) from error
    if as_json:
        print_json(asdict(report))
        return
    say(", ".join(f"{name} {value}" for name, value in report.environment.items()))
    columns = ("stage", "side", "epochs", "slices/s (median)", "seconds")
    print_table(columns, [astuple(stage) for stage in report.stages])
    say(f"{report.seconds} s of epochs in all")
    rows = [(name, "–" if value is None else f"{value:.4f}") for name, value in report.metrics.items()]
    print_table((f"on {report.n} unseen slices", "value"), rows)


def _train(plan: LaunchPlan) -> FitReport:
    """Train, and measure on the test part. TensorFlow is loaded only here, after the request has been accepted."""
    from training.data.slices import Data, load_parts
    from training.evaluation.metrics import measure
    from training.loop.fit import fit
    from training.network.backend import environment
    from training.network.initial_weights import initial_network
    from training.network.pixel_scale import check_pixels
    from training.network.training_copy import predict
    from worker.engines.package import probability

    request, config = plan.request, plan.config
    parts = load_parts(plan.dataset, plan.split)
    network = initial_network(config, request.seed, lambda: None)
    if config.initial.kind != "none":
        check_pixels(network, parts["train"].pixels, config.pixels)
    above = current().home / "training"
    above.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=above) as folder:
        data, observer = Data(parts["train"], parts["validation"]), EpochPrinter(config.stages)
        history = fit(network, config, data, seed=request.seed, folder=Path(folder), observer=observer).history
    unseen = parts["test"]
    logit = predict(network, unseen.pixels[..., None], lambda: None)["logit"]
    metrics = measure(probability(logit, 1.0), unseen.labels, 0.5)
    return FitReport(
        dataset=plan.dataset.label,
        preset=request.preset,
        seed=request.seed,
        split=plan.split.description,
        environment=environment(),
        stages=[_speed(stage, [r for r in history if r.stage == index]) for index, stage in enumerate(config.stages)],
        seconds=round(sum(record.seconds for record in history), 1),
        n=len(unseen),
        metrics=metrics,
    )


def _speed(stage: Stage, epochs: Sequence[EpochRecord]) -> StageSpeed:
    rate = round(median(record.metrics["rate"] for record in epochs), 1)
    return StageSpeed(stage.name, stage.size, len(epochs), rate, round(sum(record.seconds for record in epochs), 1))
