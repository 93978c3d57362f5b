"""Training alone, on a dataset that is there: images/s, time, and what the network then says of unseen groups."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from cli.errors import JobFailed
from cli.local.session import reading, writing
from cli.local.training_runs import refusals
from cli.output import print_json, print_table, say
from db.database import current
from training.config import Stage
from training.errors import why
from training.launch.launch import LaunchPlan, RunRequest, prepare
from training.loop.watcher import EpochRecord, Watcher


class Told(Watcher):
    """Says what each epoch came to."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages

    def epoch(self, record: EpochRecord) -> None:
        """A line on stderr."""
        stage, m = self._stages[record.stage], record.metrics
        told = f"{stage.name}: epoch {record.epoch + 1} of {stage.epochs}, {m['rate']:.0f} images/s"
        say(f"{told}, loss {m['loss']:.3f}, validation {m['val_loss']:.3f}, AUC {m['val_auc']:.3f}")


def run(asked: RunRequest, as_json: bool) -> None:
    """Train as a run does, in this process, on whatever Keras computes with; print each stage, the time, the figures.

    Nothing is kept but the split: there is no worker, no evaluation with intervals, no package. Probabilities are as
    the network gives them, positive from 0.5 on.

    Raises JobFailed: what would end a run.
    """
    with refusals():
        prepared = prepare(asked, writing, reading)
    try:
        facts = _fitted(prepared)
    except Exception as error:
        raise JobFailed(why(error)) from error
    if as_json:
        print_json(facts)
        return
    say(", ".join(f"{name} {value}" for name, value in facts["environment"].items()))
    columns = ("stage", "side", "epochs", "images/s (median)", "seconds")
    print_table(columns, [list(stage.values()) for stage in facts["stages"]])
    say(f"{facts['seconds']} s of epochs in all")
    rows = [(name, f"{value:.4f}") for name, value in facts["metrics"].items()]
    print_table((f"on {facts['n']} unseen slices", "figure"), rows)


def _fitted(prepared: LaunchPlan) -> dict[str, Any]:
    """Train, and measure on the test part. Here TensorFlow is loaded: what is refused is refused before."""
    from training.data.slices import Data, load_parts
    from training.evaluation.metrics import measure
    from training.loop.fit import fit
    from training.network.initial_weights import initial_network
    from training.network.training_copy import environment, predict
    from worker.engines.package import probability

    asked, config = prepared.asked, prepared.config

    parts = load_parts(prepared.dataset, prepared.split)
    network = initial_network(config, asked.seed, lambda: None)
    above = current().home / "training"
    above.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=above) as folder:
        data = Data(parts["train"], parts["validation"])
        history = fit(network, config, data, seed=asked.seed, folder=Path(folder), watcher=Told(config.stages)).history
    unseen = parts["test"]
    logit = predict(network, unseen.pixels[..., None], lambda: None)["logit"]
    figures = measure(probability(logit, 1.0), unseen.labels, 0.5)
    return {
        "dataset": prepared.dataset.label,
        "preset": asked.preset,
        "seed": asked.seed,
        "split": prepared.split.description,
        "environment": environment(),
        "stages": _stages(config.stages, history),
        "seconds": round(sum(record.seconds for record in history), 1),
        "n": len(unseen),
        "metrics": figures,
    }


def _stages(stages: Sequence[Stage], history: Sequence[EpochRecord]) -> list[dict[str, Any]]:
    """What each stage took."""
    found = []
    for index, stage in enumerate(stages):
        records = [record for record in history if record.stage == index]
        found.append(
            {
                "name": stage.name,
                "size": stage.size,
                "epochs": len(records),
                "rate": round(median(record.metrics["rate"] for record in records), 1),
                "seconds": round(sum(record.seconds for record in records), 1),
            }
        )
    return found
